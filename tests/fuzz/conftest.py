"""No damaged input fills the memory."""

import pytest

from mm1_mlx.command import peak_resident_memory

MOST_MEMORY = 400_000_000  # bytes more at the peak than any test before has taken


@pytest.fixture(autouse=True)
def bounded_memory():
    """Fail a test whose examples together took more memory than any of them may."""
    before = peak_resident_memory()
    yield
    assert peak_resident_memory() - before < MOST_MEMORY
