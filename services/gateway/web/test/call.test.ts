import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { MediaKind, packMedia, type ErrorEvent, type ReplyClause } from '../src/protocol';
import { settle, TestCall } from './fakes';

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] }));
afterEach(() => void vi.useRealTimers());

const CLAUSE: ReplyClause = {
  type: 'reply.clause',
  epoch: 5,
  text: 'Hello you.',
  start_ms: 0,
  end_ms: 800,
  words: [
    { text: 'Hello', start_ms: 0, end_ms: 300 },
    { text: 'you.', start_ms: 400, end_ms: 800 },
  ],
};

function media(kind: MediaKind, epoch: number): ArrayBuffer {
  return packMedia({ kind, epoch, pts_ms: 0, payload: new Uint8Array(4), keyframe: true, loop_frame: 0 });
}

function error(change: Partial<ErrorEvent>): ErrorEvent {
  return { type: 'error', code: 'internal', message: 'Oh.', fatal: false, retry_after_ms: null, ...change };
}

async function talking(): Promise<TestCall> {
  const test = await TestCall.live();
  test.socket.tell({ type: 'user.final', text: 'Hi' });
  test.socket.tell({ type: 'reply.started', epoch: 5, sample_rate_hz: 22_050 });
  test.socket.tell(CLAUSE);
  test.socket.tellMedia(media(MediaKind.SPEECH, 5));
  test.speaker.play(10);
  return test;
}

test('the first event says who is called and what can be decoded', async () => {
  const call = await TestCall.live();
  expect(call.socket.sent[0]).toMatchObject({
    type: 'session.start',
    persona_id: 'ada',
    video: { codecs: ['vp8', 'jpeg'] },
    resume_session_id: '',
  });
  expect(call.view).toMatchObject({ state: 'live', mic: 'on', persona: 'Ada', activity: 'listening' });
});

test('a turn goes from thinking to speaking to listening, and both sides are written down', async () => {
  const call = await talking();
  expect(call.view.activity).toBe('speaking');
  expect(call.view.words.map((word) => word.state)).toEqual(['saying', 'coming']);
  call.socket.tell({ type: 'reply.sent', epoch: 5, duration_ms: 900, loop_frame: 7 });
  expect(call.face.done).toContain('finish 7');
  call.speaker.heard_ms = 900;
  call.speaker.onended(5);
  expect(call.reports().at(-1)).toEqual({
    type: 'playback.report',
    epoch: 5,
    played_ms: 900,
    loop_frame: 42,
    ended: true,
  });
  call.socket.tell({ type: 'reply.ended', epoch: 5, reason: 'finished', heard_text: 'Hello you.' });
  expect(call.view.activity).toBe('listening');
  expect(call.view.lines).toEqual([
    { who: 'user', text: 'Hi' },
    { who: 'agent', text: 'Hello you.', cut: false },
  ]);
});

test('while it plays, the position is reported every 200 ms', async () => {
  const call = await talking();
  const before = call.reports().length;
  for (let ms = 50; ms <= 1000; ms += 50) {
    call.now += 50;
    call.speaker.play(ms);
  }
  expect(call.reports().length - before).toBe(5);
});

test('between replies the place in the film is reported about every second', async () => {
  const call = await TestCall.live();
  for (let i = 0; i < 3; i++) {
    call.now += 1000;
    vi.advanceTimersByTime(1000);
  }
  expect(call.reports()).toHaveLength(3);
  expect(call.reports()[0]).toMatchObject({ epoch: 0, loop_frame: 42, ended: false });
});

test('a pause holds, a resume goes on', async () => {
  const call = await talking();
  call.socket.tell({ type: 'reply.pause', epoch: 5 });
  expect(call.view.activity).toBe('held');
  call.socket.tell({ type: 'reply.resume', epoch: 5 });
  expect(call.view.activity).toBe('speaking');
  expect(call.speaker.done.slice(-2)).toEqual(['pause', 'resume']);
});

test('a stop is silent at once, reports the end, and voids what still comes', async () => {
  const call = await talking();
  call.speaker.heard_ms = 350;
  call.socket.tell({ type: 'reply.stop', epoch: 5 });
  expect(call.reports().at(-1)).toMatchObject({ epoch: 5, played_ms: 350, ended: true });
  expect(call.view.words.map((word) => word.text)).toEqual(['Hello']);
  expect(call.face.done.at(-1)).toBe('end');
  const done = call.speaker.done.length;
  call.socket.tellMedia(media(MediaKind.SPEECH, 5));
  call.socket.tell({ type: 'reply.resume', epoch: 5 });
  expect(call.speaker.done).toHaveLength(done);
});

test('media of an older epoch is dropped before it is decoded', async () => {
  const call = await talking();
  call.socket.tell({ type: 'reply.started', epoch: 6, sample_rate_hz: 22_050 });
  call.socket.tellMedia(media(MediaKind.VIDEO, 5));
  call.socket.tellMedia(media(MediaKind.SPEECH, 5));
  expect(call.face.done).not.toContain('push 5');
  expect(call.speaker.done.at(-1)).toBe('begin 6');
});

test('a first reply that comes before the loudspeaker is open is not lost', async () => {
  const call = new TestCall();
  await call.call.start('', true);
  const accepted = call.accept();
  call.socket.tell({ type: 'reply.started', epoch: 5, sample_rate_hz: 22_050 });
  call.socket.tellMedia(media(MediaKind.SPEECH, 5));
  await accepted;
  expect(call.speaker.done).toEqual(['begin 5', 'push 5 0']);
});

test('a lost connection is taken up again with the session it had', async () => {
  const call = await talking();
  call.speaker.heard_ms = 350;
  call.socket.break();
  expect(call.view.state).toBe('reconnecting');
  expect(call.view.problem?.text).toContain('lost');
  expect(call.speaker.done.at(-1)).toBe('stop');
  vi.advanceTimersByTime(2000);
  expect(call.sockets).toHaveLength(2);
  await call.accept({ resumed: true });
  expect(call.socket.sent[0]).toMatchObject({ resume_session_id: 's1' });
  expect(call.view).toMatchObject({ state: 'live', problem: null });
  expect(call.view.lines.at(-1)).toEqual({ who: 'agent', text: 'Hello', cut: true });
});

test('a conversation that had expired is told, and the call goes on as a new one', async () => {
  const call = await TestCall.live();
  call.socket.break(1012);
  expect(call.view.problem?.text).toContain('restarting');
  vi.advanceTimersByTime(2000);
  call.socket.open();
  call.socket.tell(error({ code: 'session_expired' }));
  await call.accept({ session_id: 's2' });
  expect(call.view.state).toBe('live');
  expect(call.view.problem?.text).toContain('expired');
});

test('it waits longer each time, and gives up after two minutes', async () => {
  const call = await TestCall.live();
  call.socket.break();
  for (let i = 0; i < 40 && call.view.state !== 'ended'; i++) {
    vi.advanceTimersByTime(12_000);
    call.now += 12_000;
    call.socket.break();
  }
  expect(call.sockets.length).toBeLessThan(15);
  expect(call.view.state).toBe('ended');
  expect(call.view.problem?.text).toContain('two minutes');
});

test('a full server is tried again when it said', async () => {
  const call = new TestCall();
  await call.call.start('', true);
  call.socket.open();
  call.socket.tell(error({ code: 'server_full', fatal: true, retry_after_ms: 7000 }));
  expect(call.view).toMatchObject({ state: 'connecting', problem: { retry_at: 8000 } });
  vi.advanceTimersByTime(6900);
  expect(call.sockets).toHaveLength(1);
  vi.advanceTimersByTime(200);
  await call.accept();
  expect(call.view).toMatchObject({ state: 'live', problem: null });
});

test('a fatal error ends the call with a sentence', async () => {
  const call = await TestCall.live();
  call.socket.tell(error({ code: 'unknown_persona', fatal: true }));
  expect(call.view.state).toBe('ended');
  expect(call.view.problem?.text).toContain('choose somebody else');
});

test('without a microphone one can type', async () => {
  const call = await TestCall.live('denied');
  expect(call.view).toMatchObject({ state: 'live', mic: 'denied' });
  expect(call.view.problem?.text).toContain('type');
  expect(call.call.sendText('  Hello  ')).toBe(true);
  expect(call.socket.sent.at(-1)).toEqual({ type: 'text.send', text: 'Hello' });
});

test('the microphone is sent from the first to the last moment of the call only', async () => {
  const call = await TestCall.live();
  call.microphone.onblock(20, new ArrayBuffer(640));
  expect(call.socket.packets[0]?.byteLength).toBe(656);
  call.call.toggleMute();
  expect(call.view.mic).toBe('muted');
  expect(call.microphone.muted).toBe(true);
  call.call.hangUp();
  expect(call.socket.sent.at(-1)).toEqual({ type: 'session.end' });
  call.microphone.onblock(40, new ArrayBuffer(640));
  await settle();
  expect(call.socket.packets).toHaveLength(1);
});

test('a line that takes nothing more is taken for lost', async () => {
  const call = await TestCall.live();
  call.socket.bufferedAmount = 300_000;
  call.microphone.onblock(20, new ArrayBuffer(640));
  expect(call.view.state).toBe('reconnecting');
});
