"""The index: a copy of a dataset's tables outside of it, made to be asked quickly, and disposable."""
