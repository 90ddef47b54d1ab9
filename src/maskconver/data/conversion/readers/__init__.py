"""One file a format, or a family of formats; see `Reader` for what each must offer."""
