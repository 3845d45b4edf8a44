// 8 rows of quantised weights in channels, each read by itself.

const OFFSET: i32 = 0;

struct Raw {
    row: u32,
    block: u32,
    q: u32,
}

fn raw_of(octet: u32, block: u32, q: u32) -> Raw {
    return Raw(octet * 8u, block, q);
}

fn scales_of(row: u32, block: u32) -> vec4<f32> {
    return vec4(scale(row, block), scale(row + 1u, block), scale(row + 2u, block), scale(row + 3u, block));
}

fn minima_of(row: u32, block: u32) -> vec4<f32> {
    return vec4(minimum(row, block), minimum(row + 1u, block), minimum(row + 2u, block),
        minimum(row + 3u, block));
}

fn eight(raw: Raw) -> Eight {
    let row = raw.row;
    let a = ints(row, raw.block, raw.q);
    let b = ints(row + 1u, raw.block, raw.q);
    let c = ints(row + 2u, raw.block, raw.q);
    let d = ints(row + 3u, raw.block, raw.q);
    let e = ints(row + 4u, raw.block, raw.q);
    let f = ints(row + 5u, raw.block, raw.q);
    let g = ints(row + 6u, raw.block, raw.q);
    let h = ints(row + 7u, raw.block, raw.q);
    return Eight(vec4(a.x, b.x, c.x, d.x), vec4(e.x, f.x, g.x, h.x), vec4(a.y, b.y, c.y, d.y),
        vec4(e.y, f.y, g.y, h.y), scales_of(row, raw.block), scales_of(row + 4u, raw.block),
        minima_of(row, raw.block), minima_of(row + 4u, raw.block));
}
