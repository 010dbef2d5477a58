"""The memory that MLX can use on this machine."""

from __future__ import annotations

import os

import mlx.core as mx


def machine_memory() -> int:
    """Return the bytes that the GPU should use at most, or all memory of a machine without a GPU."""
    if mx.default_device().type == mx.gpu:
        info = mx.device_info()
        found = info.get("max_recommended_working_set_size") or info.get("total_memory")
        if found:
            return int(found)
    return _bytes_of("SC_PHYS_PAGES")


def free_memory() -> int:
    """Return roughly how many bytes are still free."""
    if mx.default_device().type == mx.gpu:
        return max(machine_memory() - mx.get_active_memory(), 0)
    return _bytes_of("SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES")


def _bytes_of(pages: str) -> int:
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
