"""Errors that a user can mend: one line that says what, which file or value, and how to put it right."""


class MaskconverError(Exception):
    """Base of all errors this package raises on purpose."""


class DataError(MaskconverError):
    """An annotation or data set that cannot be used as it is."""


class ImageError(MaskconverError):
    """A picture that cannot be read."""


class ConfigError(MaskconverError):
    """A configuration value, name or combination that is not possible."""


class CheckpointError(MaskconverError):
    """A model file that cannot be loaded or saved."""


class ExportError(MaskconverError):
    """A model that cannot be exported, or an exported file that differs from its model."""


class MissingExtraError(MaskconverError):
    """A command needs an optional dependency that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs the extra "{extra}": pip install "maskconver[{extra}]"')
