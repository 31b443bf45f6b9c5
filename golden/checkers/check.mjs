// Judges a plug-in's outputs by a golden: node check.mjs GOLDEN_DIR OUT_DIR. All it knows is docs/case-format.md (the
// files) and docs/04-selection.md (must, may, must not). Exit code 0: right, 1: wrong, 2: it cannot be told.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

class Wrong extends Error {}  // an output is wrong, in one sentence; any other Error: it cannot be told
const refuse = (sentence) => { throw new Error(sentence); };
const list = (numbers) => `[${numbers.join(', ')}]`;
const product = (numbers) => numbers.reduce((a, b) => a * b, 1);
const place = (i, shape) => list(shape.map((n, axis) => Math.floor(i / product(shape.slice(axis + 1))) % n));

const word = new DataView(new ArrayBuffer(4));
function bfloat16(bits) {  // the upper half of a float32
    word.setUint32(0, bits * 65536);
    return word.getFloat32(0);
}
function e4m3(bits) {  // OCP's E4M3: bias 7, no infinity, NaN is 0x7f and 0xff
    const exponent = (bits >> 3) & 15, fraction = bits & 7;
    if (exponent === 15 && fraction === 7) return NaN;
    return (bits > 127 ? -1 : 1) * (exponent ? (8 + fraction) * 2 ** (exponent - 10) : fraction * 2 ** -9);
}
// Logical dtype: what a .npy file calls it, bytes, how to read one.
const DTYPES = {
    float64: ['<f8', 8, (view, at) => view.getFloat64(at, true)],
    float32: ['<f4', 4, (view, at) => view.getFloat32(at, true)],
    bfloat16: ['<u2', 2, (view, at) => bfloat16(view.getUint16(at, true))],
    float8_e4m3: ['|u1', 1, (view, at) => e4m3(view.getUint8(at))],
    uint8: ['|u1', 1, (view, at) => view.getUint8(at)],
    int32: ['<i4', 4, (view, at) => view.getInt32(at, true)],
    int64: ['<i8', 8, (view, at) => Number(view.getBigInt64(at, true))],
};

// The numbers of a .npy file in row-major order. Fail is thrown, with one sentence, if it is not as it must be.
function readNpy(path, dtype, shape, Fail) {
    const need = (holds, sentence) => { if (!holds) throw new Fail(`${path} ${sentence}`); };
    const [descr, bytes, number] = DTYPES[dtype] ?? refuse(`${path}: the dtype ${dtype} is unknown`);
    need(existsSync(path), 'is missing');
    const file = readFileSync(path), view = new DataView(file.buffer, file.byteOffset, file.length);
    need(file.length >= 12 && file.toString('latin1', 0, 6) === '\x93NUMPY', 'is not a .npy file');
    need(file[6] === 1 || file[6] === 2, `must be of .npy version 1 or 2; it is of version ${file[6]}`);
    const begin = file[6] === 1 ? 10 : 12;
    const data = begin + (file[6] === 1 ? view.getUint16(8, true) : view.getUint32(8, true));
    need(data <= file.length, 'is cut short inside its header');
    const header = file.toString('latin1', begin, data), entry = (pattern) => header.match(pattern)?.[1];
    const stored = entry(/'descr': *'([^']*)'/), fortran = entry(/'fortran_order': *(True|False)/);
    const extents = entry(/'shape': *\(([\d, ]*)\)/)?.split(',').filter((text) => text.trim()).map(Number);
    need(stored && fortran && extents, 'must have a descr of plain numbers, fortran_order and shape in its header');
    need(stored === descr, `must hold ${dtype}, stored as ${descr}; it holds ${stored}`);
    need(fortran === 'False', 'must be in C order; it is in Fortran order');
    need(list(extents) === list(shape), `must have the shape ${list(shape)}; it has ${list(extents)}`);
    const length = product(shape);
    need(file.length - data === length * bytes, `must hold ${length * bytes} bytes of data, not ${file.length - data}`);
    return Float64Array.from({ length }, (_, i) => number(view, data + i * bytes));
}

const [goldenDir, outDir, ...rest] = process.argv.slice(2);
let golden;  // golden.json
const read = (file, { dtype, shape }, Fail) => readNpy(`${file}.npy`, dtype, shape, Fail);
const ofPlugin = (name) => read(join(outDir, name), golden.tensors[name], Wrong);
const input = (name) => read(join(goldenDir, 'inputs', name), golden.case.tensors[name], Error);
const ofGolden = (folder, name, dtype = golden.tensors[name].dtype) =>
    read(join(goldenDir, folder, name), { dtype, shape: golden.tensors[name].shape }, Error);
function boundOf(tier, name) {  // null where there is none
    return existsSync(join(goldenDir, tier, `${name}.npy`)) ? ofGolden(tier, name, 'float32') : null;
}

// A scale has no bound. Made from numbers that kernels round differently, it may be two steps of bf16 off, and as a
// power of two it may be the next one.
function scaleBound(x, want) {
    const given = golden.case.op === 'act_quant';  // made from the inputs themselves
    if (golden.conventions.scale_format !== 'ue8m0') return (given ? 2 ** -22 : 2 ** -6) * Math.abs(want);
    return !given && (x === 2 * want || 2 * x === want) ? Math.abs(want) : 0;
}

function judgeNumbers(name) {
    const { dtype, shape, scale: unit = '' } = golden.tensors[name];
    const got = ofPlugin(name), deployed = ofGolden('deployed', name);
    const isScale = Object.values(golden.tensors).some((tensor) => tensor.scale?.replace('1/', '') === name);
    const deployedBound = boundOf('deployed_bound', name), exactBound = boundOf('exact_bound', name);
    const exact = exactBound && ofGolden('exact', name, 'float64');
    // Numbers in units of a scale are compared without it. A scale that the plug-in does not show is taken to be the
    // golden's. With another scale, or one unseen, a number may have been rounded another way: a step is granted.
    const divides = unit.startsWith('1/'), scale = unit.replace('1/', '');
    const theirs = unit ? ofGolden('deployed', scale) : [1];
    const hidden = unit && !existsSync(join(outDir, `${scale}.npy`));
    const mine = unit && !hidden ? ofPlugin(scale) : theirs, block = got.length / theirs.length;
    let worst = 0, first = '';
    const found = (i, x, want) => { first ||= `first at ${place(i, shape)}: got ${x}, want ${want}`; };
    const compare = (i, x, want, bound, tier) => {
        const error = x === want ? 0 : Math.abs(x - want);  // equal infinities differ by nothing
        const ratio = error === 0 ? 0 : error / bound;
        worst = Math.max(worst, Number.isNaN(ratio) ? Infinity : ratio);
        const fits = error === 0 || (Number.isFinite(x) && error <= bound);  // so that NaN does not fit
        if (!fits) found(i, x, `${want} +- ${bound} (${tier})`);
    };
    for (let i = 0; i < got.length; ++i) {
        if (Number.isNaN(deployed[i]) && !Number.isNaN(got[i])) found(i, got[i], 'NaN');
        if (Number.isNaN(deployed[i])) continue;  // by convention, and then it must be
        const a = mine[Math.floor(i / block)], b = theirs[Math.floor(i / block)];
        const x = divides ? got[i] / a : got[i] * a, want = divides ? deployed[i] / b : deployed[i] * b;
        const step = Math.abs(want) * 2 ** (dtype === 'float8_e4m3' ? -3 : -6) + (divides ? 0 : Math.max(a, b) * 2 ** -9);
        const bound = deployedBound ? deployedBound[i] : isScale ? scaleBound(x, want) : 0;
        compare(i, x, want, bound + (hidden || a !== b ? step : 0), 'deployed');
        if (exact && exactBound[i] !== Infinity)  // an infinite bound says nothing
            compare(i, x, exact[i], exactBound[i] + (hidden ? step : 0), 'exact');
    }
    if (first) throw new Wrong(`${first}; worst ratio ${worst.toPrecision(3)}`);
    return `worst ratio ${worst.toPrecision(3)}`;
}

function judgeSelection(name) {
    const got = ofPlugin(name), deployed = ofGolden('deployed', name), k = golden.tensors[name].shape.at(-1);
    const given = golden.case.op === 'top_k';
    const scores = given ? input('logits') : golden.tensors.logits ? ofGolden('exact', 'logits', 'float64') : null;
    const bounds = given || !scores ? null : boundOf('exact_bound', 'logits');
    const start = scores && input('start'), end = scores && input('end'), width = scores?.length / start?.length;
    for (let t = 0; t * k < got.length; ++t) {
        const row = got.slice(t * k, t * k + k), want = deployed.slice(t * k, t * k + k);
        const n = scores ? end[t] - start[t] : want.filter((s) => s !== -1).length;
        const wrong = (j, wanted) => { throw new Wrong(`first at [${t}, ${j}]: got ${row[j]}, want ${wanted}`); };
        row.forEach((s, j) => {
            if (j >= n) return s === -1 || wrong(j, `-1: there are ${n} candidates`);
            if (row.indexOf(s) !== j) wrong(j, 'a position not selected before');
            if (!scores && !want.includes(s)) wrong(j, `one of ${list([...want])}`);
            if (scores && !(s >= start[t] && s < end[t])) wrong(j, `a candidate, ${start[t]} to ${end[t] - 1}`);
        });
        if (!scores) continue;
        const moved = (sign) => scores.slice(t * width + start[t], t * width + end[t]).map((score, i) =>
            Number.isFinite(score) ? score + sign * (bounds?.[t * width + start[t] + i] ?? 0) : score || -Infinity);
        const low = moved(-1), high = moved(1);  // of every candidate; a NaN ranks as -inf
        const couldBeat = n > k ? high.slice().sort().at(-k - 1) : -Infinity;  // the k-th best of the others
        const surelyBeats = n > k ? low.slice().sort().at(-k) : -Infinity;
        for (let i = 0, s = start[t]; i < n; ++i, ++s) {
            if ((n <= k || low[i] > couldBeat) && !row.includes(s)) throw new Wrong(`row ${t} lacks ${s}, which must be there`);
            if (high[i] < surelyBeats && row.includes(s)) wrong(row.indexOf(s), `no such score: ${k} surely beat it`);
        }
    }
    return 'every position that must be, none that must not';
}

try {
    if (!outDir || rest.length) refuse('usage: node check.mjs GOLDEN_DIR OUT_DIR');
    readdirSync(outDir);  // no such folder: an Error
    golden = JSON.parse(readFileSync(join(goldenDir, 'golden.json'), 'utf8'));
    if (golden?.version !== 1 || !golden.outputs?.length || !golden.outputs.every((name) => golden.tensors?.[name]))
        refuse('golden.json must be of version 1, with its outputs described under tensors');
    for (const name of golden.outputs) {
        let verdict;
        try { verdict = `ok ${name === 'indices' ? judgeSelection(name) : judgeNumbers(name)}`; } catch (error) {
            if (!(error instanceof Wrong)) throw error;
            verdict = `WRONG ${error.message}`;
            process.exitCode = 1;
        }
        console.log(`${name} ${verdict}`);
    }
} catch (error) {
    console.error(`check.mjs cannot judge: ${error.message}`);
    process.exitCode = 2;
}
