"""A pattern of a user's own."""

import dataclasses

from rigl_keras import patterns


@patterns.register
@dataclasses.dataclass(frozen=True)
class Woven(patterns.Pattern):
    """Pairs of outputs, half of all apart; even and odd inputs have equally many."""

    name = "woven"

    def layout(self, taps, inputs, outputs):
        if inputs % 2 or outputs % 2:
            raise ValueError("its inputs and outputs are no pairs")
        shape = (taps, inputs // 2, 2, 2, outputs // 2)
        return patterns.Layout(shape, groups=(2, 0), units=(4, 1))
