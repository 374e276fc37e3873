"""The selective scan in Triton: `forward` and `backward` with the meaning of `cora.ops.reference.selective_scan`.

A program takes some channels of one direction of one sequence, chunk after chunk: the states at all positions of a
chunk are one tile in registers, which an associative scan along the positions makes. The forward scan keeps the states
before every chunk; the backward scan recomputes a chunk from them and goes back through it with a second scan.

Shapes: T positions of a chunk, E channels of a program, K states.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from cora.triton_kernels.sequences import mask_of, read, sigmoid, softplus, strides_of, write

__all__ = ["backward", "forward"]

POSITIONS = 16
# Channels times states of a program; 16 positions of them are 16 registers of each thread for a tile.
ELEMENTS = 256
WARPS = 8
# Fewer programs do not keep a large device busy; more need more memory for the gradients of B and C.
PROGRAMS_WANTED = 512
MOST_ROUNDS = 16

LOG2E = tl.constexpr(1.44269504)
LN2 = tl.constexpr(0.69314718)


@triton.jit
def combine(first_factor, first_state, next_factor, next_state):  # type: ignore[no-untyped-def]  # triton evaluates annotations
    """Compose two steps of the recurrence state -> factor state + drive."""
    return first_factor * next_factor, next_factor * first_state + next_state


@triton.jit  # type: ignore[untyped-decorator]
def step_sizes(  # type: ignore[no-untyped-def]  # as above
    delta, bias, steps, channels, num_channels, batch, way, length, is_reversed, strides, has_softplus: tl.constexpr
):
    """Return float32[T, E]; 0 beyond the ends, which leaves states as they are."""
    raw = read(delta, steps, channels, num_channels, batch, way, length, is_reversed, strides) + bias[None, :]
    sizes = softplus(raw) if has_softplus else raw
    return tl.where(((steps >= 0) & (steps < length))[:, None], sizes, 0.0)


@triton.jit
def weights_at(steps, state, states, batch, way, directions, length, is_reversed):  # type: ignore[no-untyped-def]  # as above
    """Return the offsets of rows [T, K] of B or C, and which of them there are."""
    position = tl.where(is_reversed, length - 1 - steps, steps).to(tl.int64)
    row = (batch * length + position) * directions + way
    return row[:, None] * states + state[None, :], (steps < length)[:, None] & (state < states)[None, :]


@triton.jit  # type: ignore[untyped-decorator]
def scan_forward_kernel(  # type: ignore[no-untyped-def]  # as above
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    y,
    kept,
    u_strides,
    delta_strides,
    z_strides,
    y_strides,
    length,
    directions,
    channels,
    states,
    reversed_ways,
    has_softplus: tl.constexpr,
    T: tl.constexpr,
    E: tl.constexpr,
    K: tl.constexpr,
):
    """Scan `E` channels; the directions of the same channels follow each other."""
    blocks = tl.cdiv(channels, E)
    way = tl.program_id(0) % directions
    row = tl.program_id(0) // directions
    batch = (row // blocks).to(tl.int64)
    channel = (row % blocks) * E + tl.arange(0, E)
    is_reversed = ((reversed_ways >> way) & 1) == 1
    t = tl.arange(0, T)
    state = tl.arange(0, K)
    is_channel = channel < channels
    parameter = way * channels + channel
    is_state = is_channel[:, None] & (state < states)[None, :]
    decay = tl.load(A + parameter[:, None] * states + state[None, :], mask=is_state, other=0.0) * LOG2E
    bias = tl.zeros((E,), tl.float32)
    if delta_bias is not None:
        bias = tl.load(delta_bias + parameter, mask=is_channel, other=0.0)
    running = tl.zeros((E, K), tl.float32)
    for first in range(0, length, T):
        steps = first + t
        if kept is not None:
            chunk = (batch * directions + way) * tl.cdiv(length, T) + first // T
            places = (chunk * channels + channel)[:, None] * states + state[None, :]
            tl.store(kept + places, running, mask=is_state)
        inputs = read(u, steps, channel, channels, batch, way, length, is_reversed, u_strides)
        sizes = step_sizes(
            delta, bias, steps, channel, channels, batch, way, length, is_reversed, delta_strides, has_softplus
        )
        places, are_there = weights_at(steps, state, states, batch, way, directions, length, is_reversed)
        read_in = tl.load(B + places, mask=are_there, other=0.0)
        read_out = tl.load(C + places, mask=are_there, other=0.0)
        factors = tl.exp2(sizes[:, :, None] * decay[None, :, :])
        drives = (sizes * inputs)[:, :, None] * read_in[:, None, :]
        drives = tl.where((t == 0)[:, None, None], drives + factors * running[None, :, :], drives)
        _, history = tl.associative_scan((factors, drives), 0, combine)
        running = tl.sum(tl.where((t == T - 1)[:, None, None], history, 0.0), axis=0)
        output = tl.sum(history * read_out[:, None, :], axis=2)
        if D is not None:
            output += tl.load(D + parameter, mask=is_channel, other=0.0)[None, :] * inputs
        if z is not None:
            gate = read(z, steps, channel, channels, batch, way, length, is_reversed, z_strides)
            output *= gate * sigmoid(gate)
        write(y, output, steps, channel, channels, batch, way, length, is_reversed, y_strides)


@triton.jit  # type: ignore[untyped-decorator]
def scan_backward_kernel(  # type: ignore[no-untyped-def]  # as above
    y_grad,
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    kept,
    u_grad,
    delta_grad,
    z_grad,
    A_grad,
    D_grad,
    bias_grad,
    B_grad,
    C_grad,
    y_strides,
    u_strides,
    delta_strides,
    z_strides,
    grad_strides,
    batches,
    length,
    directions,
    channels,
    states,
    reversed_ways,
    rounds,
    has_softplus: tl.constexpr,
    T: tl.constexpr,
    E: tl.constexpr,
    K: tl.constexpr,
):
    """Go back through `rounds` times `E` channels, adding to the same gradients of B and C."""
    spans = tl.cdiv(tl.cdiv(channels, E), rounds)
    way = tl.program_id(0) % directions
    row = tl.program_id(0) // directions
    batch = (row // spans).to(tl.int64)
    span = row % spans
    is_reversed = ((reversed_ways >> way) & 1) == 1
    t = tl.arange(0, T)
    state = tl.arange(0, K)
    chunks = tl.cdiv(length, T)
    for turn in range(rounds):
        # What the turn before stored is loaded below, maybe by another thread.
        tl.debug_barrier()
        channel = (span * rounds + turn) * E + tl.arange(0, E)
        is_channel = channel < channels
        parameter = way * channels + channel
        is_state = is_channel[:, None] & (state < states)[None, :]
        decay = tl.load(A + parameter[:, None] * states + state[None, :], mask=is_state, other=0.0) * LOG2E
        bias = tl.zeros((E,), tl.float32)
        if delta_bias is not None:
            bias = tl.load(delta_bias + parameter, mask=is_channel, other=0.0)
        skip = tl.zeros((E,), tl.float32)
        if D is not None:
            skip = tl.load(D + parameter, mask=is_channel, other=0.0)
        carry = tl.zeros((E, K), tl.float32)
        transition_sum = tl.zeros((E, K), tl.float32)
        skip_sum = tl.zeros((E,), tl.float32)
        bias_sum = tl.zeros((E,), tl.float32)
        for back in range(chunks):
            chunk = chunks - 1 - back
            steps = chunk * T + t
            # The states at all positions, as in the forward scan.
            inputs = read(u, steps, channel, channels, batch, way, length, is_reversed, u_strides)
            sizes = step_sizes(
                delta, bias, steps, channel, channels, batch, way, length, is_reversed, delta_strides, has_softplus
            )
            places, are_there = weights_at(steps, state, states, batch, way, directions, length, is_reversed)
            read_in = tl.load(B + places, mask=are_there, other=0.0)
            read_out = tl.load(C + places, mask=are_there, other=0.0)
            row_kept = (batch * directions + way) * chunks + chunk
            places_kept = (row_kept * channels + channel)[:, None] * states + state[None, :]
            before = tl.load(kept + places_kept, mask=is_state, other=0.0)
            drive = sizes * inputs
            factors = tl.exp2(sizes[:, :, None] * decay[None, :, :])
            drives = drive[:, :, None] * read_in[:, None, :]
            starts = tl.where((t == 0)[:, None, None], drives + factors * before[None, :, :], drives)
            _, history = tl.associative_scan((factors, starts), 0, combine)
            # The gradient of the output before the gate, and that of the gate.
            output_grad = read(y_grad, steps, channel, channels, batch, way, length, is_reversed, y_strides)
            if z is not None:
                gate = read(z, steps, channel, channels, batch, way, length, is_reversed, z_strides)
                is_open = sigmoid(gate)
                output = tl.sum(history * read_out[:, None, :], axis=2) + skip[None, :] * inputs
                slope = is_open * (1.0 + gate * (1.0 - is_open))
                gate_grad = output_grad * output * slope
                write(z_grad, gate_grad, steps, channel, channels, batch, way, length, is_reversed, grad_strides)
                output_grad *= gate * is_open
            # The gradients of the states: what they give here, and what the state after takes from them.
            later = step_sizes(
                delta, bias, steps + 1, channel, channels, batch, way, length, is_reversed, delta_strides, has_softplus
            )
            later_factors = tl.exp2(later[:, :, None] * decay[None, :, :])
            given = output_grad[:, :, None] * read_out[:, None, :]
            given = tl.where((t == T - 1)[:, None, None], given + later_factors * carry[None, :, :], given)
            _, grads = tl.associative_scan((later_factors, given), 0, combine, reverse=True)
            carry = tl.sum(tl.where((t == 0)[:, None, None], grads, 0.0), axis=0)
            # The state after but for what was added here is the decayed state before.
            shares = grads * (history - drives)
            drive_grad = tl.sum(grads * read_in[:, None, :], axis=2)
            step_grad = tl.sum(shares * decay[None, :, :], axis=2) * LN2 + drive_grad * inputs
            if has_softplus:
                raw = read(delta, steps, channel, channels, batch, way, length, is_reversed, delta_strides)
                step_grad *= sigmoid(raw + bias[None, :])
            input_grad = drive_grad * sizes + output_grad * skip[None, :]
            write(u_grad, input_grad, steps, channel, channels, batch, way, length, is_reversed, grad_strides)
            write(delta_grad, step_grad, steps, channel, channels, batch, way, length, is_reversed, grad_strides)
            transition_sum += tl.sum(shares * sizes[:, :, None], axis=0)
            skip_sum += tl.sum(output_grad * inputs, axis=0)
            bias_sum += tl.sum(step_grad, axis=0)
            # Those of B and C, added to what the turns before left.
            places += span.to(tl.int64) * batches * length * directions * states
            is_left = are_there & (turn > 0)
            read_in_grad = tl.sum(grads * drive[:, :, None], axis=1)
            read_out_grad = tl.sum(history * output_grad[:, :, None], axis=1)
            tl.store(B_grad + places, read_in_grad + tl.load(B_grad + places, mask=is_left, other=0.0), mask=are_there)
            tl.store(C_grad + places, read_out_grad + tl.load(C_grad + places, mask=is_left, other=0.0), mask=are_there)
        total = (batch * directions + way) * channels + channel
        tl.store(A_grad + total[:, None] * states + state[None, :], transition_sum, mask=is_state)
        tl.store(D_grad + total, skip_sum, mask=is_channel)
        tl.store(bias_grad + total, bias_sum, mask=is_channel)


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    ways: Sequence[int],
    keep_states: bool,
) -> tuple[Tensor, Tensor]:
    """Return y, and the states before every chunk (empty unless they are to be kept)."""
    batch, length, directions, channels = u.shape
    E, K = _tile(channels, A.shape[-1])
    y = u.new_empty(u.shape)
    rows = batch * directions * channels * triton.cdiv(length, POSITIONS) if keep_states else 0
    states = A.new_empty(rows, A.shape[-1])
    programs = batch * directions * triton.cdiv(channels, E)
    if programs:
        scan_forward_kernel[(programs,)](
            u, delta, A, B, C, D, z, delta_bias, y, states if keep_states else None,
            strides_of(u), strides_of(delta), strides_of(z), strides_of(y),
            length, directions, channels, A.shape[-1], mask_of(ways),
            has_softplus=delta_softplus, T=POSITIONS, E=E, K=K, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return y, states


def backward(
    y_grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    ways: Sequence[int],
    states: Tensor,
) -> tuple[Tensor, ...]:
    """Return the gradients of u, delta, z, A, D, delta_bias, B and C.

    Those of A, D and delta_bias have one more axis in front, of sequences, and those of B and C of spans of channels:
    the caller adds them up.
    """
    batch, length, directions, channels = u.shape
    E, K = _tile(channels, A.shape[-1])
    blocks = triton.cdiv(channels, E)
    rounds = max(1, min(MOST_ROUNDS, batch * directions * blocks // PROGRAMS_WANTED))
    spans = triton.cdiv(blocks, rounds)
    u_grad, delta_grad = u.new_empty(u.shape), u.new_empty(u.shape)
    z_grad = u.new_empty(0) if z is None else u.new_empty(u.shape)
    A_grad, D_grad, bias_grad = A.new_empty(batch, *A.shape), *A.new_empty(2, batch, directions, channels)
    B_grad, C_grad = A.new_empty(2, spans, *B.shape)
    programs = batch * directions * spans
    if programs:
        scan_backward_kernel[(programs,)](
            y_grad, u, delta, A, B, C, D, z, delta_bias, states,
            u_grad, delta_grad, z_grad, A_grad, D_grad, bias_grad, B_grad, C_grad,
            strides_of(y_grad), strides_of(u), strides_of(delta), strides_of(z), strides_of(u_grad),
            batch, length, directions, channels, A.shape[-1], mask_of(ways), rounds,
            has_softplus=delta_softplus, T=POSITIONS, E=E, K=K, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return u_grad, delta_grad, z_grad, A_grad, D_grad, bias_grad, B_grad, C_grad


def _tile(channels: int, states: int) -> tuple[int, int]:
    """Return the channels and the states of a program, powers of two."""
    K = triton.next_power_of_2(states)
    return min(triton.next_power_of_2(max(1, channels)), max(1, ELEMENTS // K)), K
