import { describe, expect, test } from 'vitest';
import { PcmBlocks, Resampler } from '../src/resampler';

const TO = 16_000;

function tone(hz: number, from: number, seconds: number): Float32Array {
  return Float32Array.from({ length: from * seconds }, (_, i) => Math.sin((2 * Math.PI * hz * i) / from));
}

function inBlocks(resampler: Resampler, input: Float32Array, size = 128): Float32Array {
  const output: number[] = [];
  for (let i = 0; i < input.length; i += size) output.push(...resampler.process(input.subarray(i, i + size)));
  return Float32Array.from(output);
}

function loudness(samples: Float32Array): number {
  const middle = samples.subarray(500, -500);
  return Math.sqrt(middle.reduce((sum, sample) => sum + sample * sample, 0) / middle.length);
}

describe.each([48_000, 44_100, 16_000, 8_000, 96_000])('from %i Hz', (from) => {
  test('keeps the length, and the level of speech', () => {
    const output = inBlocks(new Resampler(from, TO), tone(1000, from, 1));
    expect(Math.abs(output.length - TO)).toBeLessThan(64);
    expect(loudness(output)).toBeCloseTo(Math.SQRT1_2, 2);
  });

  test('gives the same samples whatever the size of the blocks', () => {
    const input = tone(440, from, 0.2);
    const small = inBlocks(new Resampler(from, TO), input, 97);
    const large = inBlocks(new Resampler(from, TO), input, 4096);
    expect(small.length).toBe(large.length);
    expect(small.every((sample, i) => sample === large[i])).toBe(true);
  });
});

test('what 16 kHz cannot carry is removed, not folded back', () => {
  const output = inBlocks(new Resampler(48_000, TO), tone(10_000, 48_000, 1));
  expect(20 * Math.log10(loudness(output) / Math.SQRT1_2)).toBeLessThan(-50);
});

test('blocks have one size and are clipped', () => {
  const blocks = new PcmBlocks(4);
  expect(blocks.push(Float32Array.of(0, 0.5, 2))).toEqual([]);
  const [block] = blocks.push(Float32Array.of(-2, 1));
  expect([...block!]).toEqual([0, 16384, 32767, -32767]);
});
