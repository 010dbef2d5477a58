"""Chat about pictures in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_mlx import flags
from mm1_mlx.command import entry_points, number_of, put_in_words, say, set_stream_errors
from mm1_mlx.errors import MM1Error, PromptError
from mm1_mlx.settings import EMBEDDED_MODEL

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

    from mm1_mlx.generation.answering import Piece
    from mm1_mlx.generation.conversation import Conversation

HISTORY = "mm1_mlx/chat_history"
PICTURE_NAME = re.compile(r"[/\\]|\.(png|jpe?g|webp|gif|tiff?|bmp|hei[cf]|avif)$", re.IGNORECASE)


@dataclass(frozen=True)
class Command:
    """A command that a line may begin with."""

    takes: str  # what follows it, in brackets if that is optional
    does: str  # what it does, for /help
    obey: Callable[[Conversation, str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument(
        "--image", nargs="+", action="extend", default=[], metavar="PICTURE",
        help="pictures that the first question is about; may be repeated",
    )  # fmt: skip
    flags.add_fetch(parser)
    parser.add_argument("--system", help="system message")
    parser.add_argument("--load", metavar="FILE", help="go on with a conversation that /save wrote")
    parser.add_argument(
        "--history", action=argparse.BooleanOptionalAction, default=True,
        help=f"keep what is typed in a terminal for later chats, in {HISTORY} of your state folder",
    )  # fmt: skip
    flags.add_sampling(parser)
    flags.add_large_pictures(parser)
    flags.add_shots(parser)
    flags.add_memory(parser)


def run(args: argparse.Namespace) -> None:
    from mm1_mlx.generation.conversation import Conversation
    from mm1_mlx.generation.decoding import Decoding

    decoding = Decoding(
        max_tokens=args.max_tokens,
        sampling=flags.sampling_of(args),
        stop=tuple(args.stop),
        kv_bits=args.kv_bits,
        prefill_step_size=args.prefill_step_size,
        vision_batch_size=args.vision_batch_size,
    )
    shots = flags.shots_of(args)
    model, processor = flags.load_model(args)
    cache = flags.vision_cache_of(args)
    conversation = Conversation(
        model, processor, model_name=args.model, decoding=decoding, vision_cache=cache
    )
    if args.load is not None:
        _load(conversation, args.load)
    if args.system is not None:
        conversation.system = args.system
    if shots:
        conversation.add_shots(shots)
    if args.model == EMBEDDED_MODEL:
        say(flags.TINY_NOTICE)
    if args.image:
        _attach(conversation, args.image)
    if sys.stdin is None:
        raise PromptError("stdin is closed; chat in a terminal, or give the questions on stdin, one a line.")
    if sys.stdin.isatty():
        say(f"Chat with {args.model}. /help lists the commands, Ctrl-D leaves.")
        _chat_in_terminal(conversation, _find_history() if args.history else None)
        return
    set_stream_errors(sys.stdin, "surrogateescape")  # the tokenizer refuses such a line, and the chat goes on
    with contextlib.suppress(EOFError):
        for line in sys.stdin:
            _turn(conversation, line)


def _find_history() -> Path | None:
    """Return the file of what was typed before, which only its owner can read, or None where it cannot be made."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = Path(state) / HISTORY
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.chmod(0o600)
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(None, "it cannot be written", str(path))
    except OSError as error:
        say(f"[what you type is not kept: {path}: {error.strerror or error}]")
        return None
    return path


def _chat_in_terminal(conversation: Conversation, history: Path | None) -> None:
    session = _session(history)
    while True:
        try:
            _turn(conversation, session.prompt("> "))
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _session(history: Path | None) -> PromptSession:
    """Make a prompt in which Enter sends, Alt-Enter begins a line, Tab completes, and a paste of lines is one message."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import create_output

    from mm1_mlx.inputs.typed_paths import picture_paths

    class CommandsAndPaths(Completer):
        def get_completions(self, document, complete_event):
            word, space, rest = document.text_before_cursor.partition(" ")
            if not space:
                for name, command in COMMANDS.items():
                    if word and name.startswith(word):
                        yield Completion(name + " " * bool(command.takes), -len(word), display=name)
            elif word in COMMANDS and COMMANDS[word].takes.startswith(("PATH", "FILE")):
                paths, tail = picture_paths(rest)
                begun = tail if paths and (tail or rest.endswith(" ")) else rest
                document = Document(begun.replace("\\ ", " "))
                for found in PathCompleter(expanduser=True).get_completions(document, complete_event):
                    folder = found.display_text.endswith("/")
                    yield Completion(found.text + "/" * folder, display=found.display)

    keys = KeyBindings()
    keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    return PromptSession(
        completer=CommandsAndPaths(),
        history=InMemoryHistory() if history is None else FileHistory(str(history)),
        complete_while_typing=False,
        key_bindings=keys,
        multiline=True,
        output=create_output(always_prefer_tty=True),
    )


def _turn(conversation: Conversation, line: str) -> None:
    """Do what one line asks for; an error is printed, and the chat goes on."""
    try:
        _obey(conversation, line.replace("\0", "").strip())
    except MM1Error as error:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        say(f"mm1: {put_in_words(error, parser)}")


def _obey(conversation: Conversation, line: str) -> None:
    from mm1_mlx.inputs.typed_paths import dragged_paths

    word = line.split(maxsplit=1)[0] if line else ""
    if command := COMMANDS.get(word):
        rest = line[len(word) :].strip()
        if rest and not command.takes:
            raise PromptError(f"{word} stands alone, but {rest!r} follows it; leave that out.")
        if command.takes and not rest and not command.takes.startswith("["):
            raise PromptError(f"{word} needs something behind it: {word} {command.takes}")
        command.obey(conversation, rest)
        return
    paths, question = dragged_paths(line)
    if line.startswith("/") and not paths:
        raise PromptError(
            f"there is no command {word}, nor a picture at that path; /help lists the commands."
        )
    if paths:
        _attach(conversation, paths, ask_for_question=not question)
    if question:
        _answer(conversation, question)


def _answer(conversation: Conversation, question: str) -> None:
    """Stream the answer to stdout, then print its costs to stderr.

    The first Ctrl-C ends the answer between two tokens, where the KV cache stays usable; a second one ends it at once.
    """
    piece, stopped = None, False

    def stop(*_: object) -> None:
        nonlocal stopped
        if piece is None or stopped:
            raise KeyboardInterrupt
        stopped = True

    try:
        with _on_ctrl_c(stop), closing(conversation.ask(question)) as pieces:
            for piece in pieces:
                print(piece.text, end="", flush=True)
                if stopped:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if piece is None:
            say("\n[stopped before the answer began; the question is taken back]")
        raise
    finally:
        if piece is not None:
            print(flush=True)
            if stopped:
                say("[stopped]")
            say(_summary(piece, conversation.context))


@contextmanager
def _on_ctrl_c(handler: Callable[..., None]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _summary(piece: Piece, context: int | None) -> str:
    """Return what was encoded, read and written, with a warning if the context is nearly full."""
    timing = piece.timing
    parts = [
        f"{number_of(timing.encoded_views, 'picture view')} encoded",
        f"{timing.prefilled_tokens:,} of {timing.prompt_tokens:,} tokens read",
        f"{timing.generation_tokens:,} written at {timing.generation_rate:.1f} tokens/s",
    ]
    left = (context or 0) - timing.prompt_tokens - timing.generation_tokens
    if context is not None and left < context / 4:
        parts.append(f"{left:,} of the context's {context:,} are left; /reset begins anew")
    elif piece.finish_reason == "length":
        parts.append("cut off there by --max-tokens")
    return f"[{', '.join(parts)}]"


def _attach(conversation: Conversation, paths: Sequence[str], *, ask_for_question: bool = True) -> None:
    names = [attached.name for attached in conversation.attach(*paths)]
    if ask_for_question:
        verb, them = ("is", "it") if len(names) == 1 else ("are", "them")
        say(f"{' and '.join(names)} {verb} attached; ask about {them}.")


def _image(conversation: Conversation, text: str) -> None:
    from mm1_mlx.inputs.typed_paths import one_path, picture_paths

    paths, rest = picture_paths(text)
    if paths and rest.split() and PICTURE_NAME.search(rest.split()[0]):
        raise PromptError(f"{rest!r} behind the pictures is no file, but begins like one.")
    question = rest if paths else ""
    names = paths or [one_path(rest)]  # opening what is no file raises a clear error
    _attach(conversation, names, ask_for_question=not question)
    if question:
        _answer(conversation, question)


def _system(conversation: Conversation, text: str) -> None:
    conversation.system = text or None
    say(f"The system message is {'set' if text else 'taken away'}; the next answer reads all text again.")


def _shots(conversation: Conversation, text: str) -> None:
    from mm1_mlx.inputs.few_shot import choose_shots, read_shots
    from mm1_mlx.inputs.typed_paths import one_path

    head, _, tail = text.rpartition(" ")
    numbered = bool(head) and tail.isdecimal() and len(tail) < 10
    shots = read_shots(one_path(head if numbered else text))
    shots = choose_shots(shots, int(tail), None) if numbered else shots
    conversation.add_shots(shots)
    say(f"{number_of(len(shots), 'worked example')} went before; ask in the same way.")


def _tokens(conversation: Conversation, _: str) -> None:
    costs = conversation.count_tokens()
    for what, tokens in costs.parts:
        what = " ".join(what.split())
        say(f"{tokens:>8,}  {what if len(what) <= 60 else what[:59] + '…'}")
    left = "" if costs.context is None else f" of {costs.context:,}; {costs.context - costs.total:,} are left"
    say(f"{costs.total:>8,}  in all{left}")


def _save(conversation: Conversation, text: str) -> None:
    from mm1_mlx.inputs.typed_paths import one_path

    path = one_path(text)
    conversation.save(path)
    say(f"Saved in {path}.")


def _load(conversation: Conversation, text: str) -> None:
    from mm1_mlx.inputs.typed_paths import one_path

    path = one_path(text)
    model_name = conversation.load(path)
    messages = number_of(len(conversation.messages), "message")
    pictures = number_of(len(conversation.pictures) + len(conversation.waiting), "picture")
    say(f"{path} goes on: {messages} and {pictures}, by {model_name}.")


def _reset(conversation: Conversation, _: str) -> None:
    conversation.reset()
    say("The conversation is forgotten.")


def _leave(_: Conversation, __: str) -> None:
    raise EOFError


def _help(_: Conversation, __: str) -> None:
    for word, command in COMMANDS.items():
        say(f"{word + ' ' + command.takes:<24} {command.does}")
    say("Anything else is a question, <image> where a picture goes. Alt-Enter begins a new line in it.")
    say("Ctrl-C stops an answer, Ctrl-D leaves. The arrows go through what was typed before (--no-history).")


COMMANDS = {
    "/image": Command(
        "PATH… [QUESTION]", "attach pictures; or drag them here, with a question or without", _image
    ),
    "/system": Command("[TEXT]", "set the system message; without a text, take it away", _system),
    "/shots": Command("FILE [NUMBER]", "worked examples, as turns that went before: JSON lines", _shots),
    "/tokens": Command("", "what each part of the conversation costs", _tokens),
    "/save": Command("FILE", "write the conversation", _save),
    "/load": Command("FILE", "go on with a saved one", _load),
    "/reset": Command("", "forget the conversation; the system message stays", _reset),
    "/help": Command("", "this list", _help),
    "/exit": Command("", "leave; /quit too", _leave),
    "/quit": Command("", "leave", _leave),
}


main, script = entry_points(__doc__, add_arguments, run)

if __name__ == "__main__":
    script()
