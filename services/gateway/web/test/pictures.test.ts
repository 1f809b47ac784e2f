import { afterEach, expect, test, vi } from 'vitest';
import { Pictures } from '../src/pictures';

afterEach(() => void vi.unstubAllGlobals());

const JPEG = { codec: 'jpeg', webcodecs: '', size_px: 512, fps: 25 } as const;

async function decoded(count: number): Promise<Pictures> {
  vi.stubGlobal('createImageBitmap', async () => ({ close: () => {} }));
  const pictures = new Pictures(JPEG);
  for (let i = 0; i < count; i++) {
    pictures.push({ pts_ms: i * 40, payload: new Uint8Array(1), keyframe: true, loop_frame: i });
  }
  await new Promise((resolve) => setTimeout(resolve));
  return pictures;
}

test('only a few are decoded ahead', async () => {
  expect((await decoded(30)).ready).toBe(8);
});

test('the newest that is due is shown, and those before it are dropped', async () => {
  const pictures = await decoded(5);
  expect(pictures.due(-1)).toBeNull();
  expect(pictures.due(95)?.pts_ms).toBe(80);
  expect(pictures.dropped).toBe(2);
  expect(pictures.due(95)).toBeNull();
});

test('a picture that is far too late is not shown at all', async () => {
  const pictures = await decoded(2);
  expect(pictures.due(500)).toBeNull();
  expect(pictures.dropped).toBe(2);
});

test('nothing of a cleared reply is shown, not even what was being decoded', async () => {
  const pictures = await decoded(3);
  pictures.push({ pts_ms: 120, payload: new Uint8Array(1), keyframe: true, loop_frame: 3 });
  pictures.clear();
  await new Promise((resolve) => setTimeout(resolve));
  expect(pictures.due(1000)).toBeNull();
  expect(pictures.dropped).toBe(0);
});
