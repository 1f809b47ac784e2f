import { expect, test } from 'vitest';
import { MediaKind, packMedia, parseServerEvent, unpackMedia } from '../src/protocol';

// `tests/gateway/test_protocol_names.py` packs the same packet in Python.
const SHARED_VECTOR = '0301bc0207000000000000000040554001020304';
const PACKET = {
  kind: MediaKind.VIDEO,
  epoch: 7,
  pts_ms: 85,
  payload: Uint8Array.of(1, 2, 3, 4),
  keyframe: true,
  loop_frame: 700,
};

test('a media packet is packed as the gateway packs it', () => {
  expect(Buffer.from(packMedia(PACKET)).toString('hex')).toBe(SHARED_VECTOR);
});

test('a media packet is read back', () => {
  expect(unpackMedia(packMedia(PACKET))).toEqual(PACKET);
});

test('a packet that is too short or of an unknown kind is no packet', () => {
  expect(unpackMedia(new ArrayBuffer(15))).toBeNull();
  const unknown = packMedia(PACKET);
  new DataView(unknown).setUint8(0, 9);
  expect(unpackMedia(unknown)).toBeNull();
});

test('a text frame without a type is no event', () => {
  expect(parseServerEvent('{"a":1}')).toBeNull();
  expect(parseServerEvent('{"type":"reply.pause","epoch":3}')).toEqual({ type: 'reply.pause', epoch: 3 });
});
