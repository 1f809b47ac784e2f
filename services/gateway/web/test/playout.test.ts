import { expect, test } from 'vitest';
import { Playout } from '../src/playout';

const HZ = 10_000; // 10 samples are a millisecond
const BLOCK = 100; // 10 ms

function ramp(samples: number, from = 1): Int16Array {
  return Int16Array.from({ length: samples }, (_, i) => from + i);
}

function started(samples: number): Playout {
  const playout = new Playout(HZ);
  playout.begin(1);
  playout.release();
  playout.push(1, 0, ramp(samples));
  return playout;
}

function render(playout: Playout, samples = BLOCK): number[] {
  const output = new Float32Array(samples);
  playout.render(output);
  return [...output].map((sample) => Math.round(sample * 32768));
}

test('plays from 100 ms on, when the first picture is there', () => {
  const playout = new Playout(HZ);
  playout.begin(1);
  playout.release();
  playout.push(1, 0, ramp(990));
  expect(render(playout)[0]).toBe(0);
  playout.push(1, 99, ramp(20, 991));
  expect(render(playout).slice(0, 3)).toEqual([1, 2, 3]);
});

test('waits 150 ms for the first picture and no longer', () => {
  const playout = new Playout(HZ);
  playout.begin(1);
  playout.push(1, 0, ramp(3000));
  for (let i = 0; i < 14; i++) render(playout);
  expect(playout.status.state).toBe('waiting');
  expect(render(playout)[0]).toBe(1);
});

test('a reply shorter than the buffer is played too', () => {
  const playout = started(300);
  playout.finish(1, 30);
  for (let i = 0; i < 4; i++) render(playout);
  expect(playout.status).toMatchObject({ state: 'ended', played_ms: 30, underruns: 0 });
});

test('a reply that is a few samples shorter than announced ends all the same', () => {
  const playout = started(2000);
  playout.finish(1, 201);
  for (let i = 0; i < 21; i++) render(playout);
  expect(playout.status).toMatchObject({ state: 'ended', played_ms: 200, underruns: 0 });
});

test('goes on from the very sample after a pause', () => {
  const playout = started(5000);
  render(playout);
  playout.pause();
  const paused = render(playout);
  expect(paused.slice(0, 2)).toEqual([101, 100]); // fading: the sound goes on for 5 ms, ever more softly
  expect(paused.slice(50)).toEqual(Array(50).fill(0));
  expect(playout.status.played_ms).toBe(10);
  playout.resume();
  const resumed = render(playout);
  expect(resumed[0]).toBe(0); // fading in
  expect(resumed.slice(60, 63)).toEqual([161, 162, 163]);
  expect(playout.status.played_ms).toBe(20);
});

test('a stop drops all that was buffered', () => {
  const playout = started(5000);
  render(playout);
  playout.stop();
  render(playout);
  playout.push(1, 500, ramp(2000));
  expect(render(playout)).toEqual(Array(BLOCK).fill(0));
  expect(playout.status).toMatchObject({ state: 'ended', played_ms: 10, buffered_ms: 0 });
});

test('sound of another epoch is not heard', () => {
  const playout = new Playout(HZ);
  playout.begin(2);
  playout.release();
  playout.push(1, 0, ramp(3000));
  expect(playout.status.buffered_ms).toBe(0);
});

test('samples that come twice are played once, and a gap is silence', () => {
  const playout = started(1000);
  playout.push(1, 90, ramp(200, 901)); // 100 of them again
  playout.push(1, 120, ramp(100, 2001)); // 10 ms are missing
  const heard = [...Array(13)].flatMap(() => render(playout));
  expect(heard.slice(998, 1002)).toEqual([999, 1000, 1001, 1002]);
  expect(heard.slice(1100, 1200)).toEqual(Array(100).fill(0));
  expect(heard[1200]).toBe(2001);
});

test('an underrun is counted once, and the clock stands while it lasts', () => {
  const playout = started(1000);
  for (let i = 0; i < 15; i++) render(playout);
  expect(playout.status).toMatchObject({ state: 'waiting', underruns: 1, played_ms: 100 });
  playout.push(1, 100, ramp(1000, 1001));
  render(playout);
  expect(playout.status).toMatchObject({ state: 'playing', played_ms: 110 });
});

test('a finished reply whose end never comes is over after two seconds', () => {
  const playout = started(1000);
  playout.finish(1, 500);
  for (let i = 0; i < 215; i++) render(playout);
  expect(playout.status).toMatchObject({ state: 'ended', played_ms: 100 });
});
