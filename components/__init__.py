"""The stations on the data's way, one folder each. `components/README.md` has the architecture in one page."""
