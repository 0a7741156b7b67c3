import pytest

from mpilayer.data import DataError, open_data


def refuses(source, *fragments, **form):
    """open_data(source) must raise a DataError that names the source, the fragments, and a way out."""
    with pytest.raises(DataError) as error:
        open_data(source, **form)
    for fragment in (str(source).replace("\0", r"\x00"), " | try: ", *fragments):
        assert fragment in str(error.value)
