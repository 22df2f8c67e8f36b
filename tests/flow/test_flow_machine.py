"""What a measured time depends on: the GPU is part of it."""

from pathlib import Path

from components.flow.identity import gpu_models


def test_models_of_the_driver_each_once(tmp_path: Path) -> None:
    assert gpu_models(tmp_path / "none") == []
    for bus, model in (("0000:01:00.0", "H100 80GB HBM3"), ("0000:02:00.0", "H100 80GB HBM3"), ("0000:03:00.0", "L4")):
        folder = tmp_path / bus
        folder.mkdir()
        text = f"Model: \t\t NVIDIA {model}\nIRQ:   \t\t 121\nGPU UUID: \t GPU-????????\nBus Type: \t PCIe\n"
        (folder / "information").write_text(text)
    assert gpu_models(tmp_path) == ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]
