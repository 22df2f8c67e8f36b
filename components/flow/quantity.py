"""Numbers as people read them."""


def scaled(value: float) -> str:
    """`209.7 B`, `13 k`, `7`: three or four figures and a letter."""
    for factor, letter in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{letter}" if abs(value) < 1000 * factor else f"{value / factor:,.0f}{letter}"
    return f"{value:.3g}"


def size(n_bytes: float) -> str:
    """`61.2 GB`, decimal."""
    for factor, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(n_bytes) >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes:.0f} B"


def duration(seconds: float) -> str:
    """`7 s`, `2:05`, `3:04:05`."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def device_time(seconds: float, unit: str) -> str:
    """Time of one device: `35.1 k H100-hours`, `7 core-minutes`, `3 core-seconds`."""
    if seconds >= 3600:
        return f"{scaled(seconds / 3600)} {unit}-hours"
    if seconds >= 90:
        return f"{seconds / 60:.0f} {unit}-minutes"
    if seconds < 1.5:
        return f"{'<' if seconds < 0.5 else ''} 1 {unit}-second".strip()
    return f"{seconds:.0f} {unit}-seconds"
