"""Which row is seen when: stateless permutations and a weighted mixture, so that a run resumes exactly.

Nothing here keeps a state: the row at global index i is a pure function of (seed, i). A run that restarts at step k
asks for index k and gets what it would have got; no shuffle buffer, no replay, no list of row numbers in memory.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from depthlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Sized

    from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_ROUNDS = 6
_BLOCK = 1 << 16  # the mixture repeats its shares exactly in every block of this many draws


def _hash(value: int) -> int:
    """64-bit avalanche (the finaliser of splitmix64, Steele et al. 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


# Published mixtures: the weight of each set; its sampling probability is weight / sum.
_VLM3_PUBLIC = {
    "argoverse2": 0.21,
    "waymo": 0.04,
    "nuscenes": 0.01,
    "scannetpp": 0.01,
    "taskonomy": 0.51,
    "hm3d": 0.78,
    "matterport3d": 0.006,
}
PRESETS: dict[str, dict[str, float]] = {
    # Uniform but for Matterport3D, over 16 million images.
    "depthlm": {name: 0.1 if name == "matterport3d" else 1.0 for name in _VLM3_PUBLIC},
    # Tuned, with ten million street views that are not public; it says 0.904 where uniform says 0.842.
    "vlm3": _VLM3_PUBLIC | {"street": 1.0},
    # The same without them: shares renormalise by themselves.
    "vlm3-public": _VLM3_PUBLIC,
}
MixtureName = Literal["weights", "uniform", "size", "depthlm", "vlm3", "vlm3-public"]


def mixture_weights(
    mixture: str, weights: Sequence[float], sizes: Sequence[int], names: Sequence[str | None]
) -> list[float]:
    """The weights of a mixture by its name.

    weights: those given with the data (for "weights"). sizes: rows of each set (for "size"). names: what each set is
    (for the published presets; several parts of one set share its weight by size). Raises InputError for an unknown
    mixture, and when the sets are not exactly those of the preset.
    """
    if mixture == "weights":
        return list(weights)
    if mixture == "uniform":
        return [1.0] * len(sizes)
    if mixture == "size":
        return [float(size) for size in sizes]
    if mixture not in PRESETS:
        raise InputError(f"mixture is {mixture!r}; expected one of {', '.join(get_args(MixtureName))}")
    preset = PRESETS[mixture]
    for kind, wrong in (
        ("does not know", sorted({str(name) for name in names} - set(preset))),
        ("also needs", sorted(set(preset) - {str(name) for name in names})),
    ):
        if wrong:
            raise InputError(
                f"mixture {mixture!r} {kind} {', '.join(wrong)}; it is made of {', '.join(preset)} "
                "(name: in a data entry says which set it is)"
            )
    totals = {name: sum(size for size, n in zip(sizes, names, strict=True) if n == name) for name in preset}
    return [preset[str(name)] * size / max(1, totals[str(name)]) for size, name in zip(sizes, names, strict=True)]


def cap_passes(weights: Sequence[float], sizes: Sequence[int], draws: int, max_passes: float) -> list[float]:
    """Weights under which no set is walked more than `max_passes` times in `draws` draws in all.

    What a capped set gives up goes to the others in proportion to their weights. Raises InputError when all sets
    together do not hold enough.
    """
    shares = np.asarray(weights, dtype=np.float64) / math.fsum(weights)
    limits = np.asarray(sizes, dtype=np.float64) * max_passes / max(1, draws)
    used = shares > 0
    if limits[used].sum() < 1:
        raise InputError(
            f"{draws} draws need {1 / limits[used].sum() * max_passes:.2f} passes over the data, more than "
            f"max_passes={max_passes:g}; train for fewer steps or raise it"
        )
    capped = np.zeros(len(shares), dtype=bool)
    while (over := used & ~capped & (shares > limits * (1 + 1e-12))).any():
        capped |= over
        free = used & ~capped
        shares[capped] = limits[capped]
        if not free.any():
            break
        shares[free] *= (1 - shares[capped].sum()) / shares[free].sum()
    return shares.tolist()


class Permutation:
    """A bijection of range(n) that is computed, not stored: O(1) memory and time per index.

    A Feistel network on the next power of four above n, walked along its cycle until it falls back into range(n)
    (on average fewer than four steps). Keyed by (seed, epoch): another epoch is another order.
    """

    def __init__(self, seed: int, epoch: int, n: int) -> None:
        if n < 0:
            raise ValueError(f"a permutation of {n} items does not exist")
        self.n = n
        self._half = max(1, ((max(n, 1) - 1).bit_length() + 1) // 2)  # bits in each half of the Feistel state
        key = _hash(_hash(seed & _MASK) ^ (epoch & _MASK))
        self._keys = tuple(_hash(key + r) for r in range(_ROUNDS))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        """Where `index` goes. Raises IndexError outside range(n)."""
        if not 0 <= index < self.n:
            raise IndexError(index)
        value = self._feistel(index)
        while value >= self.n:
            value = self._feistel(value)
        return value

    def __iter__(self) -> Iterator[int]:
        return (self[i] for i in range(self.n))

    def _feistel(self, value: int) -> int:
        half = self._half
        mask = (1 << half) - 1
        left, right = value >> half, value & mask
        for key in self._keys:
            left, right = right, left ^ (_hash(right ^ key) & mask)
        return (left << half) | right


class Mixture:
    """Weighted mixture of data sets with an exact place for every draw.

    weights: one float >= 0 per data set, any scale (0.1 works); a share is weight / sum. Draws interleave evenly: at
    any time the number of draws from a set is within a few of its share. Every set is walked in its own permutation,
    one after the other, so that each of its rows comes once per pass. Shares are held to 1/65536.
    """

    def __init__(self, datasets: Sequence[Sized], weights: Sequence[float] | None = None, seed: int = 0) -> None:
        self.sizes = [len(dataset) for dataset in datasets]
        self.seed = seed
        weights = [1.0] * len(self.sizes) if weights is None else [float(w) for w in weights]
        if len(weights) != len(self.sizes):
            raise InputError(f"mixture has {len(self.sizes)} data sets but {len(weights)} weights")
        for i, (weight, size) in enumerate(zip(weights, self.sizes, strict=True)):
            if not (math.isfinite(weight) and weight >= 0):
                raise InputError(f"mixture weight {i} is {weight}; a weight is a finite number, 0 or more")
            if weight > 0 and size == 0:
                raise InputError(f"data set {i} of the mixture is empty; give it samples or weight 0")
        if sum(weights) <= 0:
            raise InputError("the mixture has no data set with a positive weight")
        self.slots = _slots(weights)

    def __len__(self) -> int:
        """Draws in one epoch: as many as there are rows."""
        return sum(self.sizes)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        """(epoch, i) -> (data set, row); the same as `at(epoch * len(self) + i)`."""
        epoch, i = key
        return self.at(epoch * len(self) + i)

    def at(self, index: int) -> tuple[int, int]:
        """The draw at global index >= 0: (data set, row)."""
        if index < 0:
            raise IndexError(index)
        block, slot = divmod(index, _BLOCK)
        choice, rank = _schedule(self.slots, self.seed, block)
        dataset = int(choice[slot])
        position = block * self.slots[dataset] + int(rank[slot])
        turn, place = divmod(position, self.sizes[dataset])
        return dataset, Permutation(_hash(self.seed & _MASK) + dataset, turn, self.sizes[dataset])[place]


def _slots(weights: Sequence[float]) -> tuple[int, ...]:
    """How many draws of a block each set gets: largest remainders, and at least one for a positive weight."""
    exact = np.asarray(weights, dtype=np.float64) / math.fsum(weights) * _BLOCK
    slots = np.floor(exact).astype(np.int64)
    slots[(exact > 0) & (slots == 0)] = 1
    order = np.argsort(-(exact - slots), kind="stable")
    missing = _BLOCK - int(slots.sum())
    if missing > 0:
        slots[order[:missing]] += 1
    else:  # the guaranteed single slots took some: the largest set pays
        slots[int(np.argmax(slots))] += missing
    return tuple(int(s) for s in slots)


@lru_cache(maxsize=4)
def _schedule(slots: tuple[int, ...], seed: int, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(choice, rank), both [block]: which set is drawn at each slot, and the how-manieth draw of that set it is.

    The j-th draw of a set with n slots falls at (j + uniform) / n of the block: jittered, never bunched.
    """
    rng = np.random.default_rng([seed & _MASK, block])
    place = np.concatenate([(np.arange(n) + rng.random(n)) / n for n in slots if n] or [np.empty(0)])
    choice = np.repeat(np.arange(len(slots)), slots)
    rank = np.concatenate([np.arange(n) for n in slots])
    order = np.argsort(place, kind="stable")
    return choice[order], rank[order]
