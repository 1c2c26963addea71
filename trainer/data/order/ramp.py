"""A batch that rises over the first steps: how many sequences each step has, and where in the order it begins.

The order of samples is that of a run without it; a step only takes fewer of them. Both are pure functions of the step.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """`stages`: (sequences of a step, steps) of the rise, in order; after them each step has `sequences`."""

    sequences: int
    stages: tuple[tuple[int, int], ...] = ()

    @classmethod
    def doubling(cls, sequences: int, doublings: int, over: int) -> Ramp:
        """Return a batch that doubles so many times up to `sequences`, at equal parts of the first `over` sequences.

        A part ends with the step that reaches its end, and has one step at least.
        """
        stages, read = [], 0
        for stage in range(doublings):
            batch = sequences >> (doublings - stage)
            steps = max(-(-(over * (stage + 1) // doublings - read) // batch), 1)
            stages.append((batch, steps))
            read += batch * steps
        return cls(sequences, tuple(stages))

    @property
    def steps(self) -> int:
        """Return the steps of the rise."""
        return sum(steps for _, steps in self.stages)

    def at(self, step: int) -> int:
        """Return the sequences of step `step` (0-based)."""
        for batch, steps in self.stages:
            if step < steps:
                return batch
            step -= steps
        return self.sequences

    def before(self, step: int) -> int:
        """Return the sequences that the first `step` steps have."""
        read = 0
        for batch, steps in self.stages:
            taken = min(step, steps)
            read, step = read + batch * taken, step - taken
        return read + self.sequences * step

    def steps_for(self, sequences: int) -> int:
        """Return the fewest steps that have so many sequences."""
        count = 0
        for batch, steps in self.stages:
            if sequences <= batch * steps:
                return count - (-sequences // batch)
            sequences, count = sequences - batch * steps, count + steps
        return count - (-sequences // self.sequences)
