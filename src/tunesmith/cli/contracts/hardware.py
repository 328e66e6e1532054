"""What `bench hardware` prints: the rates of this machine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.cli.contracts.document import Details, Document


class RateDetails(Details):
    """A rate a second, sampled several times."""

    best: float = Field(description="the highest sample: what the machine can do undisturbed")
    median: float = Field(description="the middle sample")
    spread: float = Field(description="how far the middle one lies below the best, as a share")
    samples: int = Field(description="how many there were")


class ProductDetails(Details):
    """Products of square matrices."""

    dtype: str = Field(description="float32 or bfloat16")
    threads: int | None = Field(description="threads; null on a GPU")
    size: int = Field(description="rows of the matrices whose product was fastest")
    flops: RateDetails = Field(description="floating-point operations a second")


class BandwidthDetails(Details):
    """Memory outside of caches, in bytes that the program asks for."""

    kind: Literal["read", "write", "copy"] = Field(
        description="what was done; a copied byte counts twice, as read and as written"
    )
    threads: int | None = Field(description="threads; null on a GPU")
    bytes: RateDetails = Field(description="bytes a second")


class PageFaultDetails(Details):
    """Touching a page of memory for the first time, by one thread."""

    page_bytes: int = Field(description="size of a page")
    best: float = Field(description="seconds a page, the lowest sample")
    median: float = Field(description="seconds a page, the middle sample")
    samples: int = Field(description="how many there were")


class SurroundingsDetails(Details):
    """What else the machine did meanwhile."""

    others: float = Field(description="cores that other processes kept busy, on average")
    cores: int = Field(description="cores that there are")
    load_average: float | None = Field(description="of the minute before; null where unknown")


class DeviceDetails(Details):
    """What was measured of one device."""

    device: Literal["cpu", "cuda"] = Field(description="kind of device")
    name: str = Field(description="its own name")
    identity: dict[str, str] = Field(
        description="what the figures depend on; they are kept and found again by it"
    )
    measured: str = Field(description="when, UTC")
    seconds: float = Field(description="how long it took")
    chosen_dtype: str = Field(description="format in which Tunesmith computes here by default")
    products: list[ProductDetails] = Field(description="rates of matrix products")
    bandwidths: list[BandwidthDetails] = Field(description="rates of memory")
    buffer_bytes: int = Field(description="memory that was read, written and copied each time")
    balances: dict[str, float] = Field(
        description="FLOPs for each byte read at which arithmetic and memory take equally long, "
        "with all threads, by format"
    )
    page_fault: PageFaultDetails | None = Field(description="null on a GPU")
    surroundings: SurroundingsDetails = Field(description="what else went on")
    file: str | None = Field(default=None, description="where it is kept; null: it could not be")


class HardwareDocument(Document):
    """`tunesmith bench hardware --json`."""

    devices: list[DeviceDetails] = Field(description="the CPU, then a CUDA device if any")
    warnings: list[str] = Field(description="why figures may not be the machine's own")
