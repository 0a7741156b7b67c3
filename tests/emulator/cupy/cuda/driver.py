"""What is needed of the driver's interface."""

NAMES = {1: "CUDA_ERROR_INVALID_VALUE", 500: "CUDA_ERROR_NOT_FOUND"}


class CUDADriverError(RuntimeError):
    """The driver would refuse this."""

    def __init__(self, status, text=""):
        self.status = status
        super().__init__(f"{NAMES.get(status, status)}: {text}")
