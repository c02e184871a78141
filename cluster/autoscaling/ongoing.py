"""Scale a pool by the requests its replicas hold."""

import math


def replicas_for(ongoing: float, target: float) -> int:
    """How many replicas hold ``ongoing`` requests at ``target`` each, never fewer than one.

    A replica that is full reports all it can hold, so with a target below that a queue at the router always asks
    for more replicas although it is not counted here.
    """
    return max(1, math.ceil(ongoing / target))
