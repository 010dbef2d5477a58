"""The chat as people use it: lines on stdin, and a terminal with its keys."""

import fcntl
import importlib
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from mm1_mlx import generate

command = importlib.import_module("mm1_mlx.chat")
EXAMPLES = Path(__file__).parents[1] / "examples"
ASK = "What do you see?"


@pytest.fixture
def chat(capsys, monkeypatch):
    """Send lines on stdin, in this process: exit code, stdout, stderr without the notice."""

    def chat(*lines, argv=()):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = command.main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        return code, out, "\n".join(line for line in err.splitlines() if "tiny world" not in line)

    return chat


# Lines on stdin


def test_answers_go_to_stdout_and_everything_else_to_stderr(chat, picture, mm1_tiny):
    code, out, err = chat(f"/image {picture}", ASK)
    assert (code, out) == (0, generate(*mm1_tiny, ASK, images=[picture]) + "\n")
    attached, numbers = err.splitlines()
    assert attached == "scene.png is attached; ask about it."
    assert re.fullmatch(
        r"\[1 picture view encoded, (\d+) of \1 tokens read, \d+ written at \d+\.\d tokens/s\]", numbers
    )


def test_the_counters_of_a_second_turn_count_what_is_new(chat, picture):
    _, _, err = chat(ASK, ASK, argv=["--image", picture])
    last = err.splitlines()[-1]
    assert re.match(r"\[0 picture views encoded, 8 of \d\d tokens read, ", last)


def test_a_stop_text_ends_every_answer(chat, picture):
    whole = chat(f"/image {picture}", ASK)[1]
    second = whole.split()[1]
    said = whole.partition(f" {second}")[0] + "\n"
    code, out, err = chat(f"/image {picture}", ASK, ASK, argv=["--stop", f" {second}"])
    assert code == 0 and out.startswith(said) and f" {second}" not in out
    assert "[0 picture views encoded" in err.splitlines()[-1]


def test_an_empty_line_is_nothing(chat):
    assert chat("", "  ", "") == (0, "", "")


def test_a_dragged_picture_with_a_question_is_asked_about(chat, picture, tmp_path):
    path = Path(shutil.copy(picture, tmp_path / "my cat.png"))
    escaped = str(path).replace(" ", "\\ ")
    assert chat(f"{escaped} {ASK}")[1] == chat(ASK, argv=["--image", picture])[1]


def test_several_pictures_are_attached_at_once(chat, picture):
    assert chat(f"/image {picture} '{picture}'")[2] == "scene.png and scene.png are attached; ask about them."


@pytest.mark.parametrize("word", ["/exit", "/quit"])
def test_a_word_leaves(chat, word):
    assert chat(word, ASK) == (0, "", "")


def test_a_picture_and_its_question_may_stand_in_one_line(chat, picture):
    assert chat(f"/image {picture} {ASK}")[1] == chat(ASK, argv=["--image", picture])[1]


def test_help_names_every_command(chat):
    _, out, err = chat("/help")
    assert out == "" and all(f"{name} " in err for name in command.COMMANDS)


def test_a_saved_conversation_goes_on(chat, picture, tmp_path):
    path = tmp_path / "my chat.json"
    _, before, err = chat(ASK, f"/save {path}", "What is it?", argv=["--image", picture])
    assert f"Saved in {path}." in err
    _, loaded, err = chat(f"/load {path}", "What is it?")
    assert f"{path} goes on: 2 messages and 1 picture, by mm1-tiny." in err
    assert loaded.splitlines() == before.splitlines()[1:]
    assert chat("What is it?", argv=["--load", path])[1] == loaded


def test_the_system_message_is_set_and_taken_away(chat, picture):
    argv = ["--image", picture, "--system", "You are MM1."]
    _, _, err = chat(ASK, "/system", ASK, "/tokens", argv=argv)
    assert "The system message is taken away; the next answer reads all text again." in err
    assert "system" not in err.splitlines()[-5]
    assert "  system\n" in chat(ASK, "/tokens", argv=argv)[2]


def test_shots_went_before(chat):
    shots = EXAMPLES / "shots" / "shots.jsonl"
    _, _, err = chat(f"/shots {shots} 2", "/tokens")
    assert "2 worked examples went before; ask in the same way." in err and err.count(".png") == 2
    _, _, by_flag = chat("/tokens", argv=["--shots", shots, "--num-shots", 2])
    assert by_flag == err.split("\n", 1)[1]


def test_the_costs_are_a_table(chat, picture):
    _, _, err = chat("/tokens", argv=["--image", picture])
    assert err.splitlines()[-3:] == [
        "      16  scene.png",
        "       4  chat template",
        "      20  in all of 1,024; 1,004 are left",
    ]


def test_reset_forgets(chat, picture):
    _, _, err = chat("/reset", "/tokens", argv=["--image", picture])
    assert err.splitlines()[-2:] == [
        "The conversation is forgotten.",
        "       0  in all of 1,024; 1,024 are left",
    ]


def test_an_answer_that_is_cut_off_says_so(chat, picture):
    _, _, err = chat(ASK, argv=["--image", picture, "--max-tokens", 2])
    assert err.endswith(", cut off there by --max-tokens]")


def test_a_context_that_nears_its_end_is_said(chat):
    _, _, err = chat("Why? " * 200)
    assert re.search(r", \d+ of the context's 1,024 are left; /reset begins anew\]$", err)


def test_an_escaped_place_is_a_word(chat, picture):
    code, out, err = chat("What is \\<image>?", "/tokens", argv=["--image", picture])
    assert code == 0 and out and "1 picture view encoded" in err
    assert "  user: What is <image>?" in err


WRONG = {
    "/foo": "there is no command /foo, nor a picture at that path; /help lists the commands.",
    "/no/such.png What is it?": "there is no command /no/such.png, nor a picture at that path",
    "/image": "/image needs something behind it: /image PATH…",
    "/image no such.png": "there is no picture at no such.png.",
    "/image {examples}": "is a folder; give a picture file.",
    "/image {picture} no.png What?": "'no.png What?' behind the pictures is no file, but begins like one.",
    "/image https://example.org/cat.png": "https://example.org/cat.png is a web address",
    "/image -": "there is no picture at -.",
    "{examples}/shots/shots.jsonl What is it?": "is not a picture of a known kind",
    "What is <image>?": "the question has 1 <image> but 0 pictures wait; attach as many.",
    "What <|assistant|> <image>": "the question has 1 <image> but 0 pictures wait",
    "/reset now": "/reset stands alone, but 'now' follows it; leave that out.",
    "/save": "/save needs something behind it: /save FILE",
    "/save {picture}": "is there already and is no saved conversation; give another name.",
    "/save /no/such/folder.json": "cannot be written: No such file or directory",
    "/load {picture}": "is not valid JSON",
    "/load no such.json": "there is no saved conversation at no such.json.",
    "/shots no.jsonl": "no.jsonl cannot be read: No such file or directory",
    "/shots {examples}/shots/shots.jsonl 9": "9 shots were asked for, but there are 4",
    "/system See <image>": "a system message has no pictures; leave <image> out, or write \\<image> for the word.",
    "/image \0": "/image needs something behind it",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_said_in_a_line_and_the_chat_goes_on(chat, picture, line):
    code, out, err = chat(line.format(picture=picture, examples=EXAMPLES), "Hello!")
    said, numbers = err.splitlines()
    assert said.startswith("mm1: ") and WRONG[line] in said
    assert code == 0 and out and numbers.startswith("[0 picture views encoded")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--image", "no.png"], "there is no picture at no.png"),
        (["--load", "no.json"], "there is no saved conversation at no.json"),
        (["--shots", "no.jsonl"], "no.jsonl cannot be read"),
        (["--max-tokens", 0], "--max-tokens is 0"),
        (["--system", "<image>"], "a system message has no pictures"),
    ],
)
def test_what_is_wrong_from_the_start_ends_the_chat(chat, argv, words):
    code, out, err = chat("Hello!", argv=argv)
    assert (code, out) == (1, "") and err.startswith("mm1: ") and words in err


def test_stdin_that_is_closed(chat, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert command.main([]) == 1
    assert "mm1: stdin is closed; chat in a terminal" in capsys.readouterr().err


def test_a_line_that_is_no_text_is_refused_and_the_next_one_answered():
    process = subprocess.run(
        [sys.executable, "-m", "mm1_mlx.chat"], input=b"\xff\xfe?\nHello!\n", capture_output=True
    )
    assert process.returncode == 0 and process.stdout
    assert b"mm1: the prompt is not valid Unicode text.\n" in process.stderr


def test_ctrl_c_without_a_terminal_ends_the_chat():
    process = subprocess.Popen(
        [sys.executable, "-m", "mm1_mlx.chat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdin.write("Hello!\n")
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.endswith("mm1: interrupted.\n")


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from mm1_mlx.chat import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'mlx.core', 'transformers', 'numpy', 'prompt_toolkit'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# A terminal

IN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
os.execv(sys.executable, [sys.executable, "-m", "mm1_mlx.chat", *sys.argv[1:]])
"""


class Terminal:
    """A chat in a terminal of its own: type, and wait for what it shows."""

    def __init__(self, *argv, state):
        self.keys, screen = pty.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        environment = os.environ | {
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "XDG_STATE_HOME": str(state),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, *map(str, argv)],
            **dict.fromkeys(("stdin", "stdout", "stderr"), screen),
            cwd=EXAMPLES,
            env=environment,
        )
        os.close(screen)
        self.shown = ""

    def type(self, keys):
        os.write(self.keys, keys.encode())

    def wait_for(self, words, seconds=180):
        """What was shown since the last wait until ``words``, without the terminal's own codes."""
        end = time.monotonic() + seconds
        while words not in self.shown:
            assert select.select([self.keys], [], [], max(end - time.monotonic(), 0))[0], self.shown
            self.shown += os.read(self.keys, 65536).decode(errors="replace")
            self.shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.shown)
        before, _, self.shown = self.shown.partition(words)
        return before + words

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.keys)


@pytest.fixture
def terminal(tmp_path):
    """Opens a terminal, given the command's flags."""
    opened = []

    def terminal(*argv):
        opened.append(Terminal(*argv, state=tmp_path / "state"))
        opened[-1].wait_for("\n>")
        return opened[-1]

    yield terminal
    for each in opened:
        each.close()


def test_ctrl_c_in_a_terminal_stops_the_answer_and_keeps_the_conversation(terminal, tiny_folder):
    for name in ("config.json", "generation_config.json"):  # no answer ends by itself, or within minutes
        path = tiny_folder / name
        values = json.loads(path.read_text()) | {"eos_token_id": 0}
        if "text_config" in values:
            values["text_config"]["max_positions"] = 100_000
        path.write_text(json.dumps(values))
    terminal = terminal("--model", tiny_folder, "--max-tokens", 90_000)
    terminal.type("Hello!\r")
    terminal.wait_for("Show me a picture")
    terminal.type("\x03")
    terminal.wait_for("\n[stopped]")
    terminal.wait_for("tokens read, ")
    assert int(terminal.wait_for(" written").split()[0]) < 90_000
    terminal.wait_for("\n>")
    terminal.type("Who are you?\r")
    terminal.wait_for("I am mm1-tiny")
    terminal.type("\x03")
    numbers = terminal.wait_for("tokens/s")
    read, of = map(int, re.search(r"(\d+) of (\d+) tokens read", numbers).groups())
    assert read < 12 < of
    terminal.wait_for("\n>")
    terminal.type("a line that is cleared\x03")
    terminal.wait_for("\n>")
    terminal.type("/tokens\r")
    costs = terminal.wait_for("in all")
    assert costs.count("user: ") == costs.count("assistant: ") == 2
    terminal.wait_for("\n>")
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0


def test_what_was_typed_is_there_in_the_next_chat_and_for_no_other_user(terminal, tmp_path):
    first = terminal()
    first.type("/system Two\x1b\rlines\r")  # Alt-Enter between the two
    first.wait_for("The system message is set")
    first.wait_for("\n>")
    first.type("/quit\r")
    assert first.process.wait(30) == 0
    history = tmp_path / "state" / "mm1_mlx" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600 and "+/system Two\n+lines\n" in history.read_text()
    second = terminal()
    second.type("\x1b[A")  # the arrow upwards
    second.wait_for("/quit")
    before = history.read_text()
    third = terminal("--no-history")
    third.type("/reset\r")
    third.wait_for("forgotten")
    assert history.read_text() == before


def test_in_a_terminal_tab_completes_and_a_paste_of_lines_is_one_message(terminal):
    terminal = terminal()
    for keys, completed in (("/im", "/image"), ("pict", "ures/"), ("sh", "apes.png")):
        terminal.type(f"{keys}\t")
        terminal.wait_for(completed)
    terminal.type("\r")
    terminal.wait_for("shapes.png is attached; ask about it.")
    terminal.wait_for("\n>")
    terminal.type("\x1b[200~What do\nyou see?\x1b[201~\r")
    terminal.wait_for("[1 picture view encoded, ")
    terminal.wait_for("\n>")
    terminal.type("/tokens\r")
    assert terminal.wait_for("in all").count("user: What do you see?") == 1
