"use strict";
// A language model's forward pass in plain JavaScript, a token at a time: what models/gpt2.py, models/layers.py,
// models/switchhead.py and models/experts.py compute. evaluation/embedded.py writes the weights that it reads.
//
// A name's capitals are its axes: D model width, F hidden width, H heads, K head width, E experts of a head, O and I a
// matrix's outputs and inputs, V vocabulary. Weights are float32: int8 times the scale of their row. Sums are float64.

const RMS_EPSILON = 2 ** -23; // torch's default for float32
const LAYER_EPSILON = 1e-5;
const ROTARY_BASE = 10000;

/** Base64 to the bytes that it stands for. */
function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes.buffer;
}

/** A tensor as Float32Array, with its shape. Of int8 each row, an output channel, has its scale. */
function unpack({ shape, int8, scale, float32 }) {
  if (float32 !== undefined) return { shape, data: new Float32Array(bytesOf(float32)) };
  const [O, I] = shape;
  const data = new Float32Array(new Int8Array(bytesOf(int8)));
  const scale_O = new Float32Array(bytesOf(scale));
  for (let o = 0, at = 0; o < O; o++) for (let i = 0; i < I; i++) data[at++] *= scale_O[o];
  return { shape, data };
}

/** Rows `from` to `to` of a matrix times x, plus the bias where there is one. */
function linear(x_I, weight_OI, bias_O, from = 0, to = weight_OI.shape[0]) {
  const { data, shape: [, I] } = weight_OI;
  const y_O = new Float64Array(to - from);
  for (let o = from, at = from * I; o < to; o++) {
    let sum = bias_O ? bias_O.data[o] : 0;
    for (let i = 0; i < I; i++) sum += data[at++] * x_I[i];
    y_O[o - from] = sum;
  }
  return y_O;
}

/** x / sqrt(mean of x^2), times a learned gain. */
function rmsNorm(x_D, gain_D) {
  let squares = 0;
  for (const x of x_D) squares += x * x;
  const scale = 1 / Math.sqrt(squares / x_D.length + RMS_EPSILON);
  return x_D.map((x, d) => x * scale * gain_D.data[d]);
}

/** (x - mean) / standard deviation, times a learned gain, plus a bias where there is one. */
function layerNorm(x_D, gain_D, bias_D) {
  const mean = x_D.reduce((sum, x) => sum + x, 0) / x_D.length;
  const variance = x_D.reduce((sum, x) => sum + (x - mean) ** 2, 0) / x_D.length;
  const scale = 1 / Math.sqrt(variance + LAYER_EPSILON);
  return x_D.map((x, d) => (x - mean) * scale * gain_D.data[d] + (bias_D ? bias_D.data[d] : 0));
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

function softmax(x) {
  const highest = x.reduce((a, b) => Math.max(a, b));
  const powers = x.map((one) => Math.exp(one - highest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

/** Adds `from` to `to`, in place. */
function add(to, from) {
  for (let i = 0; i < to.length; i++) to[i] += from[i];
}

/** The model: `next(id)` returns the logits of the token after `id`, given all since `reset()`. */
class Transformer {
  constructor({ config, experts, tensors }) {
    this.config = config;
    this.experts = experts; // of SwitchHead; null: dense attention
    this.tensors = Object.fromEntries(Object.entries(tensors).map(([name, packed]) => [name, unpack(packed)]));
    this.H = experts ? experts.n_head : config.n_head;
    this.K = experts ? experts.head_width : (config.head_width ?? config.n_embd / config.n_head);
    this.reset();
  }

  /** Forget all tokens: an empty key-value cache, and nothing for the convolutions to mix in. */
  reset() {
    this.position = 0;
    this.layers = Array.from({ length: this.config.n_layer }, () => ({ keys: [], values: [], recent: {} }));
  }

  next(id) {
    return this.readOut(this.hidden(id));
  }

  /** What the model holds of this token after its last block. */
  hidden(id) {
    const x_D = this.row("token_embedding.weight", id);
    if (this.config.positions === "learned") add(x_D, this.row("position_embedding.weight", this.position));
    for (let layer = 0; layer < this.config.n_layer; layer++) {
      const block = `blocks.${layer}`;
      add(x_D, this.attention(this.normed(x_D, block, "attention", layer), `${block}.attention`, layer));
      add(x_D, this.mlp(this.normed(x_D, block, "mlp", layer), `${block}.mlp`));
    }
    this.position++;
    return this.norm(x_D, "norm");
  }

  /** The output head is the token embedding itself. */
  readOut(x_D) {
    return linear(x_D, this.tensors["token_embedding.weight"]);
  }

  row(name, index) {
    const D = this.config.n_embd;
    return Float64Array.from(this.tensors[name].data.subarray(index * D, (index + 1) * D));
  }

  norm(x_D, name) {
    const [gain_D, bias_D] = [this.tensors[`${name}.weight`], this.tensors[`${name}.bias`]];
    return this.config.norm === "rms" ? rmsNorm(x_D, gain_D) : layerNorm(x_D, gain_D, bias_D);
  }

  /** What attention or MLP is given: the norm, and a convolution over the last tokens where the model has one. */
  normed(x_D, block, part, layer) {
    const y_D = this.norm(x_D, `${block}.${part}_norm`);
    return this.config.conv ? this.convolved(y_D, `${block}.${part}_conv.weight`, layer) : y_D;
  }

  /** Every feature plus a learned sum of its values at the last tokens, this one included. */
  convolved(x_D, name, layer) {
    const { data, shape: [width, D] } = this.tensors[name];
    const recent = [x_D, ...(this.layers[layer].recent[name] ?? [])].slice(0, width); // this token first
    this.layers[layer].recent[name] = recent;
    const y_D = x_D.slice();
    recent.forEach((past_D, age) => {
      for (let d = 0; d < D; d++) y_D[d] += data[age * D + d] * past_D[d];
    });
    return y_D;
  }

  /** Dense multi-head attention, or SwitchHead: experts for values and outputs, chosen per token and head. */
  attention(x_D, name, layer) {
    const { H, K, experts } = this;
    const part = (of) => [this.tensors[`${name}.${of}.weight`], this.tensors[`${name}.${of}.bias`]];
    const qkv = linear(x_D, ...part(experts ? "query_key" : "query_key_value"));
    const q_HK = this.prepared(qkv.subarray(0, H * K), `${name}.prepare.query_norm.weight`);
    const k_HK = this.prepared(qkv.subarray(H * K, 2 * H * K), `${name}.prepare.key_norm.weight`);
    if (!experts) {
      return linear(this.attended(q_HK, k_HK, qkv.subarray(2 * H * K), layer), ...part("output"));
    }
    const gates = this.gates(x_D, `${name}.router.weight`); // of every head's values, then of every head's outputs
    const y_HK = this.attended(q_HK, k_HK, this.mixedValues(x_D, gates.slice(0, H), ...part("value")), layer);
    return this.mixedOutputs(y_HK, gates.slice(H), ...part("output"));
  }

  /** Queries or keys before they meet: each head's norm and rotation, where the model has them. */
  prepared(x_HK, normName) {
    const { H, K } = this;
    const y_HK = x_HK.slice();
    for (let h = 0; h < H; h++) {
      const y_K = y_HK.subarray(h * K, (h + 1) * K);
      if (this.config.qk_norm) y_K.set(rmsNorm(y_K, this.tensors[normName]));
      if (this.config.positions === "rotary") this.rotate(y_K);
    }
    return y_HK;
  }

  /** Turns each pair of features (i, i + K/2) by the angle position * base^(-2i/K), in place. */
  rotate(x_K) {
    const half = x_K.length / 2;
    for (let i = 0; i < half; i++) {
      const angle = this.position * ROTARY_BASE ** (-i / half);
      const [a, b, cos, sin] = [x_K[i], x_K[i + half], Math.cos(angle), Math.sin(angle)];
      x_K[i] = a * cos - b * sin;
      x_K[i + half] = a * sin + b * cos;
    }
  }

  /** softmax(q k^T / sqrt(K)) v over all tokens so far; this one's key and value join the cache. */
  attended(q_HK, k_HK, v_HK, layer) {
    const { H, K } = this;
    const { keys, values } = this.layers[layer];
    keys.push(k_HK);
    values.push(v_HK);
    const y_HK = new Float64Array(H * K);
    for (let h = 0, first = 0; h < H; h++, first += K) {
      const scores_S = keys.map((k) => {
        let score = 0;
        for (let i = first; i < first + K; i++) score += q_HK[i] * k[i];
        return score / Math.sqrt(K);
      });
      softmax(scores_S).forEach((weight, s) => {
        for (let i = first; i < first + K; i++) y_HK[i] += weight * values[s][i];
      });
    }
    return y_HK;
  }

  /** For each head's values, then each head's outputs: [expert, gate] of the top k experts, of equal ones the first. */
  gates(x_D, name) {
    const { n_expert: E, top_k, router } = this.experts;
    const scores = Array.from(linear(x_D, this.tensors[name]));
    return Array.from({ length: 2 * this.H }, (_, row) => {
      const scores_E = scores.slice(row * E, (row + 1) * E);
      const gates_E = router === "sigmoid" ? scores_E.map(sigmoid) : softmax(scores_E);
      const best = [...scores_E.keys()].sort((a, b) => scores_E[b] - scores_E[a]).slice(0, top_k);
      return best.map((expert) => [expert, gates_E[expert]]);
    });
  }

  /** In every head the sum of gate * (x W + b) over its chosen experts. */
  mixedValues(x_D, gates_H, weight_OI, bias_O) {
    const { H, K, experts: { n_expert: E } } = this;
    const v_HK = new Float64Array(H * K);
    gates_H.forEach((chosen, h) => {
      for (const [expert, gate] of chosen) {
        const first = (h * E + expert) * K; // this expert's rows
        linear(x_D, weight_OI, bias_O, first, first + K).forEach((v, k) => (v_HK[h * K + k] += gate * v));
      }
    });
    return v_HK;
  }

  /** The sum of gate * (y W) over the chosen experts of all heads, plus the bias. */
  mixedOutputs(y_HK, gates_H, { data, shape: [D, columns] }, bias_D) {
    const { K, experts: { n_expert: E } } = this;
    const z_D = bias_D ? Float64Array.from(bias_D.data) : new Float64Array(D);
    gates_H.forEach((chosen, h) => {
      const y_K = y_HK.subarray(h * K, (h + 1) * K);
      for (const [expert, gate] of chosen) {
        for (let d = 0; d < D; d++) {
          let at = d * columns + (h * E + expert) * K; // this expert's columns
          let sum = 0;
          for (let k = 0; k < K; k++) sum += data[at++] * y_K[k];
          z_D[d] += gate * sum;
        }
      }
    });
    return z_D;
  }

  mlp(x_D, name) {
    const part = (of) => [this.tensors[`${name}.${of}.weight`], this.tensors[`${name}.${of}.bias`]];
    return linear(this.activated(linear(x_D, ...part("input"))), ...part("output"));
  }

  activated(x_F) {
    switch (this.config.activation) {
      case "gelu":
        return x_F.map((x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))));
      case "relu2":
        return x_F.map((x) => Math.max(x, 0) ** 2);
      default: { // swiglu: the first half is the gate of the second
        const half = x_F.length / 2;
        return x_F.subarray(0, half).map((gate, f) => gate * sigmoid(gate) * x_F[half + f]);
      }
    }
  }
}

/** Numbers from [0, 1), the same for the same seed (mulberry32; Python's seeds give others). */
function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The likeliest token (temperature 0; of equals the first), or one drawn from softmax(logits / temperature). */
function choose(logits_V, temperature, random) {
  const likeliest = logits_V.reduce((best, logit, id) => (logit > logits_V[best] ? id : best), 0);
  if (temperature === 0) return likeliest;
  const p_V = softmax(logits_V.map((logit) => (logit - logits_V[likeliest]) / temperature));
  let left = random();
  for (let id = 0; id < p_V.length; id++) if ((left -= p_V[id]) < 0) return id;
  return likeliest; // the probabilities add up to 1 but for rounding
}

/** Yields `count` token ids after `ids`. A full context starts again from its last half, as decoding.py's does. */
function* generate(model, ids, count, temperature, random) {
  const { block_size } = model.config;
  const all = [...ids];
  let start = Math.max(0, all.length - block_size);
  let read = start; // the first token that the cache does not hold
  model.reset();
  for (let n = 0; n < count; n++) {
    if (all.length - start > block_size) {
      read = start = all.length - Math.max(1, Math.floor(block_size / 2));
      model.reset();
    }
    while (read < all.length - 1) model.hidden(all[read++]);
    const id = choose(model.next(all[read++]), temperature, random);
    all.push(id);
    yield id;
  }
}

if (typeof module !== "undefined") module.exports = { Transformer, choose, generate, randomNumbers };
