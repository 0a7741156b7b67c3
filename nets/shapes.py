"""What a block asks of the shape that it is built for."""


class ShapeError(ValueError):
    """Samples, or what blocks have made of them, have a shape that the next block cannot take."""


def require(where, shape, form):
    """Raise ShapeError unless the shape, without the batch, has as many sizes as the form, such as "H,W,C"."""
    if len(shape) != len(form.split(",")):
        raise ShapeError(f"{where}: expected a shape ({form}), got {tuple(shape)}")
