"use strict";
// Text to token ids and back, as data/tokenizer.py: bytes, characters and byte-pair encoding are one algorithm here.
// A text is cut into pieces. A piece that is a token is that token; any other is its UTF-8 bytes, of which neighbours
// are merged for as long as two of them form a token, that of the lowest id first.

// White space as Unicode has it: JavaScript's own \s has U+FEFF beside it, and lacks U+0085.
const SPACE = String.raw`\p{White_Space}`;
const PIECES = {
  characters: /./gsu, // of bytes and chars
  words: new RegExp( // of bpe and gpt2: GPT-2's expression
    String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^${SPACE}\p{L}\p{N}]+|${SPACE}+$|${SPACE}+(?!\P{White_Space})|${SPACE}`,
    "gu",
  ),
};

/** `tokens` holds the bytes of each id, a character U+0000 to U+00FF for each; `pieces` names an entry of PIECES. */
class Tokenizer {
  constructor({ tokens, pieces, endId }) {
    this.tokens = tokens;
    this.endId = endId; // by which a model ends a text; null where there is none
    this.pieces = PIECES[pieces];
    this.ids = new Map();
    tokens.forEach((token, id) => this.ids.has(token) || this.ids.set(token, id)); // of equal ones the first
  }

  encode(text) {
    return (text.match(this.pieces) ?? []).flatMap((piece) => {
      const bytes = Array.from(new TextEncoder().encode(piece), (byte) => String.fromCharCode(byte));
      const whole = this.ids.get(bytes.join(""));
      return whole !== undefined ? [whole] : this.merge(bytes).map((part) => this.ids.get(part));
    });
  }

  merge(parts) {
    for (;;) {
      let [lowest, at] = [Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const id = this.ids.get(parts[i] + parts[i + 1]) ?? Infinity;
        if (id < lowest) [lowest, at] = [id, i];
      }
      if (at < 0) return parts;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  /** The exact bytes of ids; they may begin or end within a character. */
  bytes(ids) {
    return Uint8Array.from(ids.map((id) => this.tokens[id]).join(""), (character) => character.charCodeAt(0));
  }
}

if (typeof module !== "undefined") module.exports = { Tokenizer };
