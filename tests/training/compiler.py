"""Whether torch.compile can work here."""

import shutil

HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
