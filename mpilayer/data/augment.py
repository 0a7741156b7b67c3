"""Images cut, scaled and flipped as they are read: random in training, the middle in evaluation.

What happens to a sample depends on the seed, the epoch and the sample: neither on ranks nor on batches.
"""

from dataclasses import replace

import numpy as np

from kernels import compiled
from mpilayer.base.cli import Option, image_shape
from mpilayer.data.source import integer, require

WINDOW = Option("shape", "HxWxC of the window of each image that is read (default: all)", image_shape)
PAD = 4  # pixels by which a crop may reach over the edge (He et al. 2016)
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a resized crop (Szegedy et al. 2015)


def middle(size, shape, rng):
    """(top, left, height, width) of the middle window of `shape` (h,w) in an image of `size` (H,W), in pixels."""
    return (size[0] - shape[0]) / 2, (size[1] - shape[1]) / 2, *shape


def crop(size, shape, rng):
    """The same of a window at a random place, up to PAD pixels over the edge."""
    top, left = (rng.integers(-PAD, extent - wanted + PAD + 1) for extent, wanted in zip(size, shape, strict=True))
    return top, left, *shape


def resized_crop(size, shape, rng):
    """The same of a window of random area and aspect ratio, at a random place inside; it will be scaled to `shape`."""
    area, aspect = size[0] * size[1] * rng.uniform(*AREA), np.exp(rng.uniform(*np.log(RATIO)))
    height, width = min(size[0], np.sqrt(area / aspect)), min(size[1], np.sqrt(area * aspect))
    return rng.uniform(0, size[0] - height), rng.uniform(0, size[1] - width), height, width


AUGMENTS = {"none": middle, "flip": middle, "crop": crop, "resized-crop": resized_crop}  # all but none flip, too


class View:
    """The view of a Part that reads windows `shape` (h,w) of images (n,H,W,C), in training as `augment` says.

    inner   the view of the whole images, which makes float32 of them
    """

    def __init__(self, inner, augment, shape, seed):
        self.inner, self.augment, self.shape, self.seed = inner, augment, shape, seed

    def __call__(self, x, rows, epoch):
        """float32 (n,h,w,C) of x (n,H,W,C), the images `rows` (n,); epoch None: as in evaluation."""
        boxes = np.empty((len(x), 5))
        for box, row in zip(boxes, rows, strict=True):
            rng = None if epoch is None else np.random.default_rng([self.seed, epoch, row])
            box[:] = self._box(x.shape[1:3], rng)
        out = np.empty((len(x), *self.shape, x.shape[3]), np.float32)
        _sample(np.ascontiguousarray(self.inner(x, rows, epoch), np.float32), boxes, out)
        return out

    def _box(self, size, rng):
        """(top, left, height, width, flipped)."""
        if rng is None or self.augment == "none":
            return *middle(size, self.shape, None), False
        flipped = rng.random() < 0.5
        return *AUGMENTS[self.augment](size, self.shape, rng), flipped


@compiled.kernel()
def _sample(x, boxes, out):
    """out[n] = the box of x[n], bilinear between the centres of pixels; 0 beyond the edge."""
    N, h, w, C = out.shape
    for n in range(N):
        top, left, height, width, flipped = boxes[n]
        if height == h and width == w and top == int(top) and left == int(left):
            _copy(x[n], int(top), int(left), flipped, out[n])
            continue
        for i in range(h):
            down = top + (i + 0.5) * height / h - 0.5
            for j in range(w):
                across = left + (j + 0.5) * width / w - 0.5
                _pixel(x[n], down, across, out[n, i, w - 1 - j if flipped else j])


@compiled.part()
def _copy(image, top, left, flipped, out):
    """The same of a box whose pixels are those of the image."""
    H, W, _ = image.shape
    h, w, C = out.shape
    for i in range(h):
        for j in range(w):
            down, across, to = top + i, left + j, w - 1 - j if flipped else j
            for c in range(C):
                inside = 0 <= down < H and 0 <= across < W
                out[i, to, c] = image[down, across, c] if inside else np.float32(0)


@compiled.part()
def _pixel(image, down, across, out):
    H, W, C = image.shape
    if down <= -1 or down >= H or across <= -1 or across >= W:
        out[:] = 0
        return
    down, across = min(max(down, 0.0), H - 1.0), min(max(across, 0.0), W - 1.0)
    i, j = int(down), int(across)
    below, right = min(i + 1, H - 1), min(j + 1, W - 1)
    a, b = np.float32(down - i), np.float32(across - j)
    for c in range(C):
        upper = image[i, j, c] + b * (image[i, right, c] - image[i, j, c])
        lower = image[below, j, c] + b * (image[below, right, c] - image[below, j, c])
        out[c] = upper + a * (lower - upper)


def view_images(data, window, augment, seed):
    """The Data whose parts read a window (H,W,C) of each image, or the image if it is None. Raises DataError."""
    if window is None and augment == "none":
        return data
    require(len(data.shape) == 3, data.name, "expected no --shape or --augment: these are no images", "leaving it out")
    require(augment in AUGMENTS, "augment", f"unknown, got {augment!r}", ", ".join(AUGMENTS))
    window = data.shape if window is None else window
    good = isinstance(window, tuple | list)
    require(good, data.name, f"expected a shape (H,W,C), got {window!r}", "another --shape")
    window = [integer(data.name, "each size of the shape", size, 1) for size in window]
    fits = len(window) == 3 and window[2] == data.shape[2] and all(
        w <= e for w, e in zip(window, data.shape, strict=True))
    require(fits, data.name, f"expected a shape of at most {data.shape} and as many channels, got {window}",
            "a smaller --shape")
    for part in (data.train, data.test):
        part.view = View(part.view, augment, window[:2], seed)
    return replace(data, shape=tuple(window))
