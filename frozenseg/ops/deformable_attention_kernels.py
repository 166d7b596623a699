"""The Triton kernels of deformable attention. Each program does BLOCK_N queries of one head of one image.

Triton reads a kernel's source text, so these are written in its language rather than in Python: names in capitals are
known when a kernel is compiled, and every value is a block or a number of the device's.
"""

import triton
import triton.language as tl


@triton.jit
def _corner(x, y, height, width, dx: tl.constexpr, dy: tl.constexpr):
    """One of the four cells around places in units of cells: its number in the level, whether there is one, and its
    share along x and y."""
    left, top = tl.floor(x), tl.floor(y)
    column, row = left.to(tl.int32) + dx, top.to(tl.int32) + dy
    share_x = x - left if dx else left + 1 - x
    share_y = y - top if dy else top + 1 - y
    there = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return row * width + column, there, share_x, share_y


@triton.jit
def _place(locations, sample, is_query, height, width):
    """Places in units of cells, and whether any of their four cells can be there: false for what is no number."""
    x = tl.load(locations + 2 * sample, mask=is_query, other=0.0).to(tl.float32) * width - 0.5
    y = tl.load(locations + 2 * sample + 1, mask=is_query, other=0.0).to(tl.float32) * height - 0.5
    near = is_query & (x >= -1) & (x < width) & (y >= -1) & (y < height)
    return tl.where(near, x, 0.0), tl.where(near, y, 0.0), near


@triton.jit
def attend(
    value, level_table, locations, weights, out, num_queries, num_cells,
    HEADS: tl.constexpr, DIM: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """value [B,S,M,D], level_table [L,3] (height, width, first cell), locations [B,N,M,L,P,2], weights [B,N,M,L,P] ->
    out [B,N,M,D]."""
    image, head = (tl.program_id(1) // HEADS).to(tl.int64), tl.program_id(1) % HEADS
    query = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = tl.arange(0, BLOCK_D)
    is_query, is_channel = query < num_queries, channel < DIM
    entry = (image * num_queries + query) * HEADS + head
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for level in range(LEVELS):
        height, width = tl.load(level_table + 3 * level), tl.load(level_table + 3 * level + 1)
        first = image * num_cells + tl.load(level_table + 3 * level + 2)
        for point in range(POINTS):
            sample = (entry * LEVELS + level) * POINTS + point
            x, y, near = _place(locations, sample, is_query, height, width)
            weight = tl.load(weights + sample, mask=near, other=0.0).to(tl.float32)
            for corner in tl.static_range(4):
                cell, there, share_x, share_y = _corner(x, y, height, width, corner % 2, corner // 2)
                address = ((first + cell) * HEADS + head)[:, None] * DIM + channel[None, :]
                mask = (near & there)[:, None] & is_channel[None, :]
                read = tl.load(value + address, mask=mask, other=0.0).to(tl.float32)
                total += read * (weight * share_x * share_y)[:, None]
    address = entry[:, None] * DIM + channel[None, :]
    tl.store(out + address, total.to(out.dtype.element_ty), mask=is_query[:, None] & is_channel[None, :])


@triton.jit
def attend_backward(
    value, level_table, locations, weights, grad, grad_value, grad_locations, grad_weights, num_queries, num_cells,
    HEADS: tl.constexpr, DIM: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """grad [B,N,M,D] -> grad_value, float32 zeros that are added to, grad_locations and grad_weights, written whole."""
    image, head = (tl.program_id(1) // HEADS).to(tl.int64), tl.program_id(1) % HEADS
    query = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = tl.arange(0, BLOCK_D)
    is_query, is_channel = query < num_queries, channel < DIM
    entry = (image * num_queries + query) * HEADS + head
    address = entry[:, None] * DIM + channel[None, :]
    given = tl.load(grad + address, mask=is_query[:, None] & is_channel[None, :], other=0.0).to(tl.float32)
    for level in range(LEVELS):
        height, width = tl.load(level_table + 3 * level), tl.load(level_table + 3 * level + 1)
        first = image * num_cells + tl.load(level_table + 3 * level + 2)
        for point in range(POINTS):
            sample = (entry * LEVELS + level) * POINTS + point
            x, y, near = _place(locations, sample, is_query, height, width)
            weight = tl.load(weights + sample, mask=near, other=0.0).to(tl.float32)
            sampled = tl.zeros((BLOCK_N,), tl.float32)
            slope_x = tl.zeros((BLOCK_N,), tl.float32)
            slope_y = tl.zeros((BLOCK_N,), tl.float32)
            for corner in tl.static_range(4):
                cell, there, share_x, share_y = _corner(x, y, height, width, corner % 2, corner // 2)
                address = ((first + cell) * HEADS + head)[:, None] * DIM + channel[None, :]
                mask = (near & there)[:, None] & is_channel[None, :]
                read = tl.load(value + address, mask=mask, other=0.0).to(tl.float32)
                product = tl.sum(read * given, axis=1)
                sampled += product * share_x * share_y
                slope_x += product * share_y * (1 if corner % 2 else -1)
                slope_y += product * share_x * (1 if corner // 2 else -1)
                tl.atomic_add(grad_value + address, given * (weight * share_x * share_y)[:, None], mask=mask)
            tl.store(grad_weights + sample, sampled, mask=is_query)
            tl.store(grad_locations + 2 * sample, slope_x * weight * width, mask=is_query)
            tl.store(grad_locations + 2 * sample + 1, slope_y * weight * height, mask=is_query)
