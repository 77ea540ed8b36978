"""Where the mean loss of a batch is least, if all of it is predicted alike.

The loss is compiled once, for many predictions; the search itself is numpy's, since a search within the
program would take longer to compile than to run.

Shapes: R searches side by side, C numbers to find in each, P points tried in each.
"""

from collections.abc import Callable

import numpy as np

DESCENT_STEPS, NEWTON_STEPS = 200, 8
NUM_ZOOMS = 14


def minimise(risk_and_gradient: Callable, start_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minima beside some starts, `[R, C]`, and their values, `[R]`: descent, then Newton's method.

    The descent's steps fall to nothing whatever the gradient's size, which ends at a kink as well as in a
    valley; Newton's steps, taken only where they help, make the end in a valley exact.

    Args:
        risk_and_gradient: `[R, C] -> ([R], [R, C])`, in float64.
        start_RC: where to begin.
    """
    z_RC = np.array(start_RC, np.float64)
    momentum, square = np.zeros_like(z_RC), np.zeros_like(z_RC)
    for rate in np.geomspace(0.3, 1e-5, DESCENT_STEPS):
        g_RC = np.nan_to_num(risk_and_gradient(z_RC)[1])
        momentum, square = 0.9 * momentum + 0.1 * g_RC, 0.9 * square + 0.1 * g_RC**2
        z_RC = z_RC - rate * momentum / np.sqrt(square + 1e-30)
    return _newton(risk_and_gradient, z_RC)


def _newton(risk_and_gradient: Callable, z_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Newton's steps from differences of the gradient, each damped less where the last one helped."""
    values, g_RC = map(np.asarray, risk_and_gradient(z_RC))
    damping_R = np.full(len(z_RC), 1e-9)
    eye, h = np.eye(z_RC.shape[1]), 1e-5
    for _ in range(NEWTON_STEPS):
        columns = [
            (np.asarray(risk_and_gradient(z_RC + h * e)[1]) - risk_and_gradient(z_RC - h * e)[1]) / (2 * h)
            for e in eye
        ]
        hessian_RCC = np.nan_to_num(np.stack(columns, 2))
        hessian_RCC = (hessian_RCC + hessian_RCC.transpose(0, 2, 1)) / 2 + damping_R[:, None, None] * eye
        # A direction in which nothing changes, such as a shift of all logits, is left alone.
        step_RC = np.einsum("rcd,rd->rc", np.linalg.pinv(hessian_RCC, 1e-8, hermitian=True), g_RC)
        step_RC = np.clip(np.nan_to_num(step_RC), -1.0, 1.0)
        new_values, new_g_RC = map(np.asarray, risk_and_gradient(z_RC - step_RC))
        helps = new_values <= values
        z_RC = np.where(helps[:, None], z_RC - step_RC, z_RC)
        g_RC = np.where(helps[:, None], new_g_RC, g_RC)
        values = np.where(helps, new_values, values)
        damping_R = np.where(helps, damping_R / 10, damping_R * 100)
    return z_RC, values


def minimise_numbers(
    risk: Callable, low_R: np.ndarray, high_R: np.ndarray, points: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """The least points of functions of one number between two bounds, and the values there, `[R]`.

    From a grid, ever finer around the best point; of equal ones, the middle.

    Args:
        risk: `[R, P] -> [R, P]`.
        low_R: lower bounds.
        high_R: upper bounds.
        points: P, of each grid.
    """
    low_R, high_R = np.array(low_R, np.float64), np.array(high_R, np.float64)
    rows = np.arange(len(low_R))
    for _ in range(NUM_ZOOMS):
        x_RP = low_R[:, None] + (high_R - low_R)[:, None] * np.linspace(0.0, 1.0, points)
        values_RP = np.asarray(risk(x_RP))
        values_RP = np.where(np.isnan(values_RP), np.inf, values_RP)
        is_least_RP = values_RP == values_RP.min(1, keepdims=True)
        first_R, last_R = is_least_RP.argmax(1), points - 1 - is_least_RP[:, ::-1].argmax(1)
        low_R = x_RP[rows, np.maximum(first_R - 1, 0)]
        high_R = x_RP[rows, np.minimum(last_R + 1, points - 1)]
    middle_R = (first_R + last_R) // 2
    return x_RP[rows, middle_R], values_RP[rows, middle_R]
