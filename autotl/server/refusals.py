"""What a request is refused with: a status, a reason, and which of its images was the reason."""

__all__ = ["Refused"]


class Refused(Exception):
    """A request that isn't answered. The text is the reason, and what to do instead.

    Args:
        status: of HTTP.
        image: the number of the image in the request that is refused.
    """

    def __init__(self, status: int, reason: str, image: int | None = None):
        super().__init__(reason)
        self.status, self.reason, self.image = status, reason, image
