"""Whole analyses in one script each, to copy and change; `hepgen demo` runs them on the packaged files."""
