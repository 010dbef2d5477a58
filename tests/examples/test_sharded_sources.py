"""The benchmark of sharded sources, in small: what it says of equality must hold, whatever it says of time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "sharded_sources.py"


@pytest.mark.slow
def test_shards_give_the_rows_of_memory_and_a_run_stopped_inside_one_goes_on_exactly(tmp_path):
    pytest.importorskip("pyarrow")
    flags = ["--rows", "400", "--updates", "100", "--folder", str(tmp_path / "kept")]
    done = subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["equal losses"] and told["resumed exactly"] and told["resumed updates"] > 40
    wanted = {"captions": 0.45, "interleaved": 0.45, "text": 0.10}
    assert told["shares of the rows"] == pytest.approx(wanted, abs=0.01)
