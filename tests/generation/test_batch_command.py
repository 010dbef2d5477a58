"""``generate --batch``: a file of prompts in, a file of answers out."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest

from mm1_mlx.errors import PromptError
from mm1_mlx.generate import main
from mm1_mlx.generation.batch_file import AnswerFile, read_rows
from mm1_mlx.generation.request import Request
from mm1_mlx.inputs.few_shot import Shot, read_shots

SHOTS = Path(__file__).parents[2] / "examples" / "shots" / "shots.jsonl"


@pytest.fixture
def folder(tmp_path, picture):
    shutil.copy(picture, tmp_path / "scene.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    return tmp_path


@pytest.fixture
def batch(folder, capsys):
    """Run a batch of ``rows``: exit code, answers by line, what stderr says."""

    def batch(rows, *argv):
        file = folder / "prompts.jsonl"
        file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        output = folder / "answers.jsonl"
        code = main(["--batch", str(file), "--output", str(output), "--max-tokens", "4", *map(str, argv)])
        answers = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
        return code, answers, capsys.readouterr().err

    return batch


def row(prompt="What color is it?", **values):
    return {"prompt": prompt, "image": "scene.png"} | values


def test_answers_stand_in_the_order_of_their_prompts(batch, capsys, folder):
    code, answers, err = batch(
        [row("Describe the picture.", id="x"), "", row(), row(images=[], image=None)][:3]
    )
    assert code == 0
    assert [(answer["line"], answer.get("id")) for answer in answers] == [(1, "x"), (3, None)]
    assert main(["--image", str(folder / "scene.png"), "--prompt", "What color is it?", "--json"]) == 0
    assert answers[1]["text"] == json.loads(capsys.readouterr().out)["text"]
    assert not (folder / "answers.jsonl.partial").exists()
    assert "2/2" in err


def test_an_escaped_place_is_a_word_as_in_a_lone_prompt(batch, capsys, folder):
    prompt = "Is it \\<image> or <image>?"
    code, answers, _ = batch([row(prompt), row("\\<image>?", image=None)])
    assert code == 0 and [answer["visual_tokens"] for answer in answers] == [16, 0]
    assert main(["--image", str(folder / "scene.png"), "--prompt", prompt, "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out == answers[0]["text"] + "\n"


def test_a_bad_picture_gives_an_error_row_and_exit_1(batch):
    code, answers, err = batch([row(), row(image="bad.png"), row(image="none.png"), row()])
    assert code == 1
    assert ["error" in answer for answer in answers] == [False, True, True, False]
    assert "2 of 4 rows have no answer" in err


def test_resume_asks_what_is_missing_alone(batch, folder):
    batch([row(), row(image="late.png")])
    shutil.copy(folder / "scene.png", folder / "late.png")
    code, answers, err = batch([row(), row(image="late.png"), row("What is it?")], "--resume")
    assert code == 0 and all("text" in answer for answer in answers)
    assert "2 answers in" in err


def test_resume_after_an_end_in_the_middle(batch, folder):
    rows = [row(), row("What is it?")]
    _, answers, _ = batch(rows)
    whole = (folder / "answers.jsonl").read_text()
    first, second = whole.splitlines()
    (folder / "answers.jsonl").unlink()
    (folder / "answers.jsonl.partial").write_text(first + "\n" + second[:20])
    code, again, err = batch(rows, "--resume")
    assert code == 0 and "1 answer in" in err
    assert [answer["text"] for answer in again] == [answer["text"] for answer in answers]


def test_stop_texts_end_every_answer_and_one_made_without_them_is_not_taken_up(batch):
    asked = row("Describe the picture.")
    _, (whole,), _ = batch([asked])
    first, second = whole["text"].split()[:2]
    code, (answer,), err = batch([asked], "--resume", "--stop", "?!", "--stop", f" {second}")
    assert (code, answer["text"], answer["finish_reason"]) == (0, first, "stop")
    assert "1 answer in" in err


def test_stop_texts_are_kept_behind_worked_examples(picture):
    shots = [Shot(picture, question="What is it?", answer="a circle")]
    request = Request("What color is it?", [picture], stop=["?!"]).behind(shots)
    assert request.stop == ("?!", "\n", ".", ",", "Question")


def test_an_empty_stop_text_is_refused():
    with pytest.raises(PromptError, match="`stop` holds an empty text"):
        Request("What is it?", stop=["x", ""])


@pytest.mark.parametrize("change", ["row", "setting"])
def test_an_answer_to_something_else_is_not_taken_up(batch, change):
    batch([row()])
    changed = [row("What is it?")] if change == "row" else [row()]
    _, _, err = batch(changed, "--resume", *(["--max-tokens", 2] if change == "setting" else []))
    assert "1 answer in" in err


def test_resume_after_ends_in_the_middle_twice(batch, folder):
    rows = [row(), row("What is it?"), row("What shape is it?")]
    _, answers, _ = batch(rows)
    lines = (folder / "answers.jsonl").read_text().splitlines()
    (folder / "answers.jsonl").unlink()
    partial = folder / "answers.jsonl.partial"
    partial.write_text(lines[0] + "\n" + lines[1][:20])
    file = AnswerFile(folder / "answers.jsonl", read_rows(folder / "prompts.jsonl"), {}, resume=True)
    file.add(read_rows(folder / "prompts.jsonl")[1], {"text": "of other settings"})
    file.close()
    assert [json.loads(line)["line"] for line in partial.read_text().splitlines()] == [1, 2]
    partial.write_text(lines[0] + "\n" + lines[1][:20] + lines[2] + "\n" + lines[1])
    code, again, err = batch(rows, "--resume")
    assert code == 0 and "1 answer in" in err
    assert [answer["text"] for answer in again] == [answer["text"] for answer in answers]


def test_a_file_that_holds_no_answers_is_not_replaced(folder, capsys):
    (folder / "p.jsonl").write_text(json.dumps(row()))
    argv = ["--batch", str(folder / "p.jsonl"), "--output", str(folder / "answers.jsonl"), "--resume"]
    for name in ("answers.jsonl", "answers.jsonl.partial"):
        for text in ('{"line": [], "text": "x", "request": ""}\n', "my notes\nof today\n", "[1]\n[2]\n"):
            (folder / name).write_text(text)
            assert main(argv) == 1
            assert f"{name} is there already and is no file of answers" in capsys.readouterr().err
            assert (folder / name).read_text() == text
        (folder / name).unlink()
    os.mkfifo(folder / "answers.jsonl.partial")
    assert main(argv) == 1 and "answers.jsonl.partial is no regular file" in capsys.readouterr().err


def test_one_process_at_a_time_writes_answers(batch, folder):
    (folder / "p.jsonl").write_text(json.dumps(row()))
    other = AnswerFile(folder / "answers.jsonl", read_rows(folder / "p.jsonl"), {}, resume=False)
    for flags in ((), ("--resume",)):
        code, answers, err = batch([row()], *flags)
        assert (code, answers) == (1, []) and "another process is writing" in err
    other.close()
    assert not (folder / "answers.jsonl.partial").exists()
    assert batch([row()])[0] == 0


def test_keys_of_the_users_own_go_to_the_answer(batch):
    own = {
        "id": None,
        "want": "a face",
        "tags": ["x", {"y": 1.5}],
        "image_id": 7,
        "prompt_id": "p",
        "answer": 1,
    }
    code, answers, err = batch([row(**own)])
    assert code == 0, err
    assert {name: answers[0][name] for name in own} == own and answers[0]["text"]
    assert batch([row(**own)], "--resume")[2].count("0 answers in") == 1


def test_half_a_surrogate_pair_spoils_no_other_row(batch, folder):
    rows = [
        row(),
        row(id="cut emoji \ud83d"),
        row(image="x\ud83d.png"),
        row("What \ud83d?"),
        row("What is it?"),
    ]
    code, answers, _ = batch(rows)
    assert code == 1 and [answer["line"] for answer in answers] == [1, 2, 3, 4, 5]
    assert answers[1]["text"] == answers[0]["text"] and answers[1]["id"] == "cut emoji \ud83d"
    assert "error" in answers[2] and answers[4]["text"]
    code, again, _ = batch(rows, "--resume")
    assert code == 1 and again[1] == answers[1]


def test_a_tilde_is_the_home_folder(batch, folder, monkeypatch):
    home = folder / "home"
    home.mkdir()
    shutil.move(folder / "scene.png", home / "there.png")
    monkeypatch.setenv("HOME", str(home))
    code, answers, err = batch([{"prompt": "What is it?", "images": ["~/there.png"]}])
    assert code == 0 and answers[0]["visual_tokens"] == 16, err
    shot = {"image": "~/there.png", "question": "What is it?", "answer": "a scene"}
    (folder / "shots.jsonl").write_text(json.dumps(shot))
    assert read_shots(folder / "shots.jsonl")[0].image == home / "there.png"


def test_a_full_disk_is_one_line_with_the_file(batch, folder, small_files):
    with small_files(150):
        code, _, err = batch([row(), row("What is it?")])
    told = err.splitlines()[-1]
    assert code == 1 and told == f"mm1: {folder / 'answers.jsonl.partial'}: File too large."
    code, answers, err = batch([row(), row("What is it?")], "--resume")
    assert code == 0 and len(answers) == 2


def test_answers_that_are_there_are_not_overwritten(batch):
    batch([row()])
    code, answers, err = batch([row("What is it?")])
    assert code == 1 and "is there already; --resume goes on with it" in err
    assert len(answers) == 1


def test_worked_examples_come_before_every_row(batch):
    rows = [row("What color is the circle?"), row("What shape is red?")]
    code, answers, _ = batch(rows, "--shots", SHOTS, "--num-shots", 3)
    assert code == 0
    assert all(answer["visual_tokens"] == 4 * 16 and "answer" in answer for answer in answers)
    assert sum(answer["encoded_views"] for answer in answers) == 3 + 1


def test_the_prompt_flag_is_for_rows_without_one(batch):
    code, answers, _ = batch([{"image": "scene.png"}], "--prompt", "What color is it?")
    assert code == 0 and answers[0]["text"]


def test_the_prompt_for_rows_without_one_may_stand_on_stdin(batch, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("What color is it?"))
    _, answers, _ = batch([{"image": "scene.png"}, row("What color is it?")], "--prompt", "-")
    assert answers[0]["text"] == answers[1]["text"]
    assert answers[0]["prompt_tokens"] == answers[1]["prompt_tokens"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1: this is not JSON"),
        ("[]", "line 1: this is [], expected a JSON object"),
        ({"image": "scene.png"}, "line 1: there is no prompt; add it, or give --prompt"),
        ({"promt": "x"}, "line 1: there is no key 'promt'; did you mean prompt?"),
        ({"prompt": "x", "imgae": "a.png"}, "line 1: there is no key 'imgae'; did you mean image?"),
        ({"prompt": "x", "image_path": "a.png"}, "there is no key 'image_path'; did you mean image?"),
        (row(System_prompt="x"), "there is no key 'System_prompt'; did you mean system?"),
        (row(text="x"), "line 1: the key 'text' is one that the answer will have; give it another name"),
        (row(visual_tokens=1), "the key 'visual_tokens' is one that the answer will have"),
        (row(images=[]), "line 1: image and images do not go together"),
        ({"prompt": "x", "images": "a.png"}, "line 1: images are 'a.png', expected paths"),
        (row(system=3), "line 1: system is 3, expected text"),
    ],
)
def test_a_row_at_fault_is_named_before_the_work(batch, folder, line, words):
    code, answers, err = batch([line])
    assert (code, answers) == (1, []) and words in err
    assert not (folder / "answers.jsonl.partial").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batch", "x"], "--batch needs --output"),
        (["--prompt", "x", "--resume"], "--output and --resume go with --batch"),
        (["--batch", "x", "--output", "y", "--image", "z"], "--image does not go with --batch"),
        (["--batch", "x", "--output", "y", "--kv-bits", "8"], "--kv-bits does not go with --batch"),
        (["--batch", "x", "--output", "y", "--max-kv-size", "8"], "--max-kv-size does not go with --batch"),
        ([], "give --prompt TEXT, or --batch FILE"),
    ],
)
def test_flags_that_do_not_go_together_are_a_usage_error(capsys, argv, words):
    assert main(argv) == 2
    assert words in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_before_the_work(folder, capsys):
    (folder / "p.jsonl").write_text(json.dumps(row()))
    assert main(["--batch", str(folder / "p.jsonl"), "--output", str(folder / "no" / "a.jsonl")]) == 1
    assert "give a file in a folder that exists" in capsys.readouterr().err


def test_an_answer_is_on_disk_as_soon_as_it_is_there(folder):
    (folder / "p.jsonl").write_text(json.dumps(row()))
    rows = read_rows(folder / "p.jsonl")
    file = AnswerFile(folder / "a.jsonl", rows, {}, resume=False)
    file.add(rows[0], {"text": "red"})
    assert json.loads((folder / "a.jsonl.partial").read_text())["text"] == "red"
    assert not (folder / "a.jsonl").exists()
    file.finish()
    assert json.loads((folder / "a.jsonl").read_text())["text"] == "red"
