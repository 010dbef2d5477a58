r"""Read the forms of a training row, with one function for each; every form becomes the same record.

A row has the first of these forms whose main key it has. A key that is ``null`` counts as absent. Unknown keys
(ids, sources) are ignored, unless they carry content: ``tool_calls``, ``reasoning``, ``system``, another form's text.

    chat         {"images": ["cat.png"], "messages": [
                     {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
                     {"role": "assistant", "content": "A cat."}]}
    LLaVA        {"image": "cat.png", "conversations": [
                     {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]}
    question     {"image": "cat.png", "question": "What is it?", "answer": "A cat."}
    interleaved  {"images": [null, "cat.png", null], "texts": ["Look: ", null, " That was a cat."]}
    caption      {"image": "cat.png", "caption": "A cat on a mat."}
    text         {"text": "Cats sleep most of the day."}

``image`` and ``images`` are one key, of one picture or a list. A picture is a path from the file's folder, a
``data:`` URL, or ``{"bytes": …, "path": …}`` as Hugging Face stores it; ``<image>`` in a text is the place of one,
``\<image>`` the word.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from mm1_mlx.data.unused import require_no_picture, require_used
from mm1_mlx.errors import DataError
from mm1_mlx.inputs.picture import Source
from mm1_mlx.inputs.prompt import IMAGE, Message, Role, join_texts, num_places, remove_places
from mm1_mlx.inputs.sources import is_data_url, is_web_address, to_path
from mm1_mlx.strict import shown

Form = Literal["chat", "LLaVA", "question", "interleaved", "caption", "text"]
Values = dict[str, Any]

OF_LLAVA: dict[Any, Role] = {"system": "system", "human": "user", "gpt": "assistant"}
OTHER_KEYS = ("answer", "answers", "rationale", "image", "images")


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: Role
    text: str  # ``<image>`` where a picture goes


@dataclass(frozen=True)
class Record:
    """One row, whatever its form: the turns of a conversation, or a document."""

    name: str  # "data/train.jsonl, line 3", for messages
    turns: tuple[Turn, ...]  # empty for a document
    document: str | None  # text with ``<image>`` in the places of its pictures; None for a conversation
    images: tuple[Source, ...]  # in reading order, one for each ``<image>``
    form: Form | None = None  # None: the record was not made from a row
    num_unplaced: int = 0  # pictures without a place in the row: they begin the first user turn

    def messages(self, after_image: str = "") -> list[Message]:
        """Return the turns as chat messages.

        Args:
            after_image: text after a picture without a place, as in ``prompt.messages_of``.
        """
        messages = [{"role": turn.role, "content": turn.text} for turn in self.turns]
        if self.num_unplaced:
            first = next(message for message in messages if message["role"] == "user")
            rest = first["content"].removeprefix(IMAGE * self.num_unplaced)
            first["content"] = (IMAGE + after_image) * self.num_unplaced + rest
        return messages


@dataclass(frozen=True)
class Content:
    """The content of a row, by the names of its fields."""

    text: dict[str, Turn] | str  # a conversation or a document
    pictures: Values  # not checked yet


def read_row(values: Values, *, name: str, folder: Path | None, pictures_there: bool = True) -> Record:
    """Turn one row into a record.

    Args:
        values: the row, from JSON or from a Hugging Face data set.
        name: what to call it in messages.
        folder: the folder that paths of pictures are relative to; None where the row came without files.
        pictures_there: refuse a path to no file; otherwise the caller counts the missing ones.

    Raises:
        DataError: the row fits no form, or a field of it is missing or wrong.
    """
    try:
        values = _drop_null(values)
        form, read, used = _form_of(values)
        require_used(values, used)
        content = read(values)
        if not content.pictures:
            require_no_picture(values)
        images = tuple(_find_picture(value, field, folder) for field, value in content.pictures.items())
        if pictures_there:
            _require_files(images, content.pictures, folder)
        if isinstance(content.text, str):
            _require_places(num_places(content.text), len(images), values)
            if not remove_places(content.text).strip():
                raise DataError("there is no text to learn; write some, or take the row out.")
            return Record(name, (), content.text, images, form)
        turns = list(content.text.values())
        places = sum(num_places(turn.text) for turn in turns)
        num_unplaced = 0 if places else len(images)
        _require_places(places + num_unplaced, len(images), values)
        _require_turns(content.text, num_unplaced)
        first = next(number for number, turn in enumerate(turns) if turn.role == "user")
        turns[first] = Turn("user", IMAGE * num_unplaced + turns[first].text)
        return Record(name, tuple(turns), None, images, form, num_unplaced)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def read_chat(values: Values) -> Content:
    """Read Hugging Face's messages, with pictures in ``images`` or in the parts: ``{"type": "image", "path": …}``."""
    turns: dict[str, Turn] = {}
    own: Values = {}  # pictures in the parts
    for field, message in _objects(values["messages"], "messages"):
        require_used(message, ("role", "content"), field)
        role, content = message.get("role"), message.get("content")
        if role is None or role not in get_args(Role):
            raise DataError(f"{field}.role is {shown(role)}, expected system, user or assistant.")
        if not isinstance(content, str):
            parts = _objects(content, f"{field}.content")
            places = sum(num_places(turn.text) for turn in turns.values())
            content = ""
            for part_field, part in parts:
                content = join_texts(content, _part(part, part_field))
                own |= _picture_of_part(part, part_field, places + num_places(content) - 1)
        turns[field] = Turn(role, content)
    pictures = _pictures(values)
    if own and pictures:
        raise DataError(f"{next(iter(own))} and {next(iter(pictures))} are both given; keep one of them.")
    return Content(turns, own or pictures)


def read_llava(values: Values) -> Content:
    """Read LLaVA's conversations, whose turns are from "human" and "gpt"."""
    turns = {}
    for field, message in _objects(values["conversations"], "conversations"):
        require_used(message, ("from", "value"), field)
        role = message.get("from")
        if not isinstance(role, str) or role not in OF_LLAVA:
            raise DataError(f"{field}.from is {shown(role)}, expected human, gpt or system.")
        turns[field] = Turn(OF_LLAVA[role], _text(message.get("value"), f"{field}.value"))
    return Content(turns, _pictures(values))


def read_question(values: Values) -> Content:
    """Read a question and its answer: the first of several ``answers``, after the ``rationale`` if there is one."""
    answers = {"answer": values["answer"]} if "answer" in values else _list_fields(values, "answers")
    if not answers:
        raise DataError(
            f"there is a question but no answer{_suggest_key(('answer', 'answers'), values)}; add it."
        )
    for key, value in answers.items():
        _require_words(_text(value, key), key)
    field, answer = next(iter(answers.items()))
    if "rationale" in values:
        answer = f"{_require_words(_text(values['rationale'], 'rationale'), 'rationale')} {answer}"
    asked = _require_words(_text(values["question"], "question"), "question")
    return Content({"question": Turn("user", asked), field: Turn("assistant", answer)}, _pictures(values))


def read_interleaved(values: Values) -> Content:
    """Read a document in the form of OBELICS: lists ``images`` and ``texts``, of which each place has one of the two."""
    if "images" not in values:
        raise DataError(
            f"there are texts but no images{_suggest_key(('images',), values)}; add them, null for a text."
        )
    images, texts = values["images"], values["texts"]
    for key, value in (("images", images), ("texts", texts)):
        if not isinstance(value, list):
            raise DataError(f"{key} is {shown(value)}, expected a list.")
    if len(images) != len(texts):
        raise DataError(
            f"images has {len(images)} entries and texts {len(texts)}; give as many, null where the other is."
        )
    document, pictures = "", {}
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (text is None):
            found = "null" if image is None else "given"
            raise DataError(
                f"images[{number}] and texts[{number}] are both {found}; give one of them, null the other."
            )
        document = join_texts(document, IMAGE if text is None else _text(text, f"texts[{number}]"))
        if text is None:
            pictures[f"images[{number}]"] = image
    return Content(document, pictures)


def read_caption(values: Values) -> Content:
    """Read a picture followed by its caption."""
    pictures = _pictures(values)
    if len(pictures) != 1:
        found = f"{len(pictures)} pictures" if pictures else f"no image{_suggest_key(('image',), values)}"
        raise DataError(f"there is a caption but {found}; give one image.")
    return Content(IMAGE + _text(values["caption"], "caption"), pictures)


def read_text(values: Values) -> Content:
    """Read a document without pictures."""
    pictures = _pictures(values)
    if pictures:
        raise DataError(
            f"{next(iter(pictures))} stands beside text; call the text caption, or give images and texts."
        )
    return Content(_text(values["text"], "text"), {})


PICTURES = ("image", "images")
FORMS: dict[
    str, tuple[Form, Callable[[Values], Content], tuple[str, ...]]
] = {  # by the main key; the keys it reads
    "messages": ("chat", read_chat, ("messages", *PICTURES)),
    "conversations": ("LLaVA", read_llava, ("conversations", *PICTURES)),
    "question": ("question", read_question, ("question", "answer", "rationale", *PICTURES)),
    "texts": ("interleaved", read_interleaved, ("texts", "images")),
    "caption": ("caption", read_caption, ("caption", *PICTURES)),
    "text": ("text", read_text, ("text", *PICTURES)),
}


def _form_of(values: Values) -> tuple[Form, Callable[[Values], Content], tuple[str, ...]]:
    for key, form in FORMS.items():
        if key in values:
            return form
    raise DataError(
        f"its keys ({', '.join(map(shown, values)) or 'none'}) fit no form{_suggest_key(tuple(FORMS), values)}; give messages, "
        "conversations, question and answer, images and texts, image and caption, or text."
    )


def _suggest_key(wanted: tuple[str, ...], values: Values) -> str:
    """Return a hint such as " (is 'awnser' meant to be answer?)" if an unknown key resembles a wanted one, else ""."""
    for key in values:
        near = difflib.get_close_matches(key.lower(), wanted, n=1, cutoff=0.7)
        if near and key not in (*FORMS, *OTHER_KEYS):
            return f" (is {shown(key)} meant to be {near[0]}?)"
    return ""


def _drop_null(values: Values) -> Values:
    """Drop the keys that are null, because Arrow gives every row all keys of its data set."""
    return {key: value for key, value in values.items() if value is not None}


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{field} is {shown(value)}, expected text.")
    return value


def _require_words(text: str, field: str) -> str:
    if not text.strip():
        raise DataError(f"{field} is empty; write it, or take the row out.")
    return text


def _objects(value: Any, field: str) -> Iterator[tuple[str, Values]]:
    """Yield the objects of a list with the names of their fields, without keys that are null."""
    if not isinstance(value, list) or not value:
        or_text = "text or " * field.endswith(".content")
        raise DataError(f"{field} is {shown(value)}, expected {or_text}a list with something in it.")
    for number, item in enumerate(value):
        if not isinstance(item, dict):
            raise DataError(f"{field}[{number}] is {shown(item)}, expected a JSON object.")
        yield f"{field}[{number}]", _drop_null(item)


def _list_fields(values: Values, key: str) -> Values:
    """Return the value of ``key``, one or a list, by the names of its fields; nothing if there is no such key."""
    found = values.get(key, [])
    if not isinstance(found, list):
        return {key: found}
    return {f"{key}[{number}]": value for number, value in enumerate(found)}


def _pictures(values: Values) -> Values:
    if "image" in values and "images" in values:
        raise DataError("image and images are both given; keep one of them.")
    return _list_fields(values, "image") | _list_fields(values, "images")


def _part(part: Values, field: str) -> str:
    kind = part.get("type")
    if kind == "image":
        require_used(part, ("image",), field)
        return IMAGE
    if kind == "text":
        require_used(part, ("text",), field)
        return _text(part.get("text"), f"{field}.text")
    raise DataError(
        f'{field}.type is {shown(kind)}, expected "text" or "image"; a picture is {{"type": "image"}} with images '
        'beside messages, or {"type": "image", "path": "cat.png"}.'
    )


def _picture_of_part(part: Values, field: str, place: int) -> Values:
    """Return the picture in a part of a message; a part without one is the place of the next of ``images``."""
    if part["type"] != "image":
        return {}
    for key in ("image", "path", "url"):
        if key in part:
            return {f"{field}.{key}": part[key]}
    if part.get("index", place) != place:
        raise DataError(
            f"{field}.index is {shown(part['index'])}, but this is place {place}; put images in reading order."
        )
    return {}


def _find_picture(value: Any, field: str, folder: Path | None) -> Source:
    """Return where a picture is; it is opened only later."""
    found = value
    if isinstance(value, dict):
        data = value.get("bytes")
        if not isinstance(data, bytes | None):
            raise DataError(f"{field}.bytes is {shown(data)}; give a data: URL in place of the object.")
        found = value.get("path") if data is None else data
    if isinstance(found, bytes | Image.Image):
        return found
    if not isinstance(found, str) or not found.strip():
        raise DataError(f"{field} is {shown(value)}, expected the path of a picture or a data: URL.")
    if is_data_url(found):
        return found
    if is_web_address(found):
        raise DataError(f"{field} is the web address {shown(found)}; download the picture and give its path.")
    if folder is None:
        raise DataError(
            f"{field} is the path {shown(found)}, but this data set brings no files; download its pictures and "
            "write a folder with train.jsonl beside them."
        )
    return folder / to_path(found)


def _require_files(images: Iterable[Source], pictures: Values, folder: Path | None) -> None:
    """Refuse paths at which there is no file."""
    for image, (field, value) in zip(images, pictures.items(), strict=True):
        if isinstance(image, Path) and not os.path.isfile(image):  # Path.is_file raises errors for some texts
            found = value["path"] if isinstance(value, dict) else value
            raise DataError(
                f"{field} is {shown(found)}, but there is no such file in {folder}; give a path from there."
            )


def _require_places(places: int, num_images: int, values: Values) -> None:
    if places == num_images:
        return
    near = _suggest_key(("image", "images"), values) if not num_images else ""
    raise DataError(
        f"the text has {places} {IMAGE} but the row has {num_images} picture{'s' * (num_images != 1)}{near}; "
        f"write {IMAGE} once for each picture."
    )


def _require_turns(turns: dict[str, Turn], num_unplaced: int) -> None:
    """Check that a system turn comes first if at all, then user and assistant alternate, and assistant is last."""
    spoken = list(turns.items())
    if spoken[0][1].role == "system":
        spoken = spoken[1:]
    for number, (field, turn) in enumerate(spoken):
        expected = "assistant" if number % 2 else "user"
        if turn.role != expected:
            raise DataError(
                f"{field} is {turn.role}'s, expected {expected}'s: a system turn may come first, then user and "
                "assistant by turns; join turns of one side, or take some out."
            )
        if number or not num_unplaced:
            _require_words(turn.text, field)
        if turn.role == "assistant" and num_places(turn.text):
            raise DataError(
                f"{field} is assistant's and holds {IMAGE}, but the model writes text alone; put pictures in user "
                f"turns, or write \\{IMAGE} for the word."
            )
    if len(spoken) % 2 or not spoken:
        raise DataError(
            f"{list(turns)[-1]}, the last turn, is not assistant's, so it teaches nothing; add the answer, or take it off."
        )
