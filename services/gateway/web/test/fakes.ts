/** A call with a clock, a socket, a speaker, a face and a microphone that the test moves. */

import { Call, type CallParts } from '../src/call';
import type { Socket } from '../src/connection';
import { MicrophoneError } from '../src/microphone';
import type { PlayoutState } from '../src/playout';
import type { ClientEvent, MediaPacket, ServerEvent, SessionStarted } from '../src/protocol';

export class FakeSocket implements Socket {
  binaryType: BinaryType = 'blob';
  readyState = 0;
  bufferedAmount = 0;
  onopen: ((event: Event) => void) | null = null;
  onmessage: ((event: MessageEvent) => void) | null = null;
  onclose: ((event: CloseEvent) => void) | null = null;
  sent: ClientEvent[] = [];
  packets: ArrayBuffer[] = [];

  open(): void {
    this.readyState = 1;
    this.onopen?.({} as Event);
  }

  send(data: string | ArrayBuffer): void {
    if (typeof data === 'string') this.sent.push(JSON.parse(data) as ClientEvent);
    else this.packets.push(data);
  }

  close(): void {
    this.readyState = 3;
  }

  break(code = 1006): void {
    this.readyState = 3;
    this.onclose?.({ code } as CloseEvent);
  }

  tell(event: ServerEvent): void {
    this.onmessage?.({ data: JSON.stringify(event) } as MessageEvent);
  }

  tellMedia(bytes: ArrayBuffer): void {
    this.onmessage?.({ data: bytes } as MessageEvent);
  }
}

export class FakeSpeaker {
  onprogress = () => {};
  onended: (epoch: number) => void = () => {};
  sampleRate_hz = 22_050;
  blocked = false;
  state: PlayoutState = 'idle';
  underruns = 0;
  heard_ms = 0;
  done: string[] = [];

  unlock = async () => {};
  close = async () => void this.done.push('close');
  begin = (epoch: number) => void this.done.push(`begin ${epoch}`);
  push = (packet: MediaPacket) => void this.done.push(`push ${packet.epoch} ${packet.pts_ms}`);
  finish = (epoch: number, duration_ms: number) => void this.done.push(`finish ${epoch} ${duration_ms}`);
  release = () => void this.done.push('release');
  pause = () => void this.done.push('pause');
  resume = () => void this.done.push('resume');
  stop = () => {
    this.done.push('stop');
    this.state = 'ended';
    return this.heard_ms;
  };

  play(heard_ms: number): void {
    this.state = 'playing';
    this.heard_ms = heard_ms;
    this.onprogress();
  }
}

export class FakeFace {
  onfirstpicture = () => {};
  onfailed = () => {};
  clock = () => ({ heard_ms: 0, playing: false });
  loop_frame = 42;
  done: string[] = [];
  open = () => void this.done.push('open');
  begin = () => true;
  push = (packet: MediaPacket) => void this.done.push(`push ${packet.epoch}`);
  finish = (loop_frame: number) => void this.done.push(`finish ${loop_frame}`);
  end = () => void this.done.push('end');
  advance = () => {};
  reset = () => {};
}

export class FakeMicrophone {
  onblock: (pts_ms: number, pcm: ArrayBuffer) => void = () => {};
  onlost = () => {};
  muted = false;
  level = 0;
  close = async () => {};
}

export class TestCall {
  now = 1000;
  sockets: FakeSocket[] = [];
  speaker = new FakeSpeaker();
  face = new FakeFace();
  microphone = new FakeMicrophone();
  call: Call;

  constructor(microphone: 'there' | 'denied' = 'there') {
    const parts: CallParts = {
      socket: () => {
        const socket = new FakeSocket();
        this.sockets.push(socket);
        return socket;
      },
      speaker: async () => this.speaker,
      microphone: async () => {
        if (microphone === 'denied') throw new MicrophoneError('denied');
        return this.microphone;
      },
      face: this.face,
      codecs: async () => ['vp8', 'jpeg'],
      now: () => this.now,
    };
    this.call = new Call(parts);
  }

  get socket(): FakeSocket {
    return this.sockets.at(-1)!;
  }

  get view() {
    return this.call.view;
  }

  reports() {
    return this.socket.sent.filter((event) => event.type === 'playback.report');
  }

  /** A call that the server has taken. */
  static async live(microphone: 'there' | 'denied' = 'there'): Promise<TestCall> {
    const test = new TestCall(microphone);
    await test.call.start('ada', true);
    await test.accept();
    return test;
  }

  async accept(change: Partial<SessionStarted> = {}): Promise<void> {
    this.socket.open();
    this.socket.tell({ ...STARTED, ...change });
    await settle();
  }
}

export async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await Promise.resolve();
}

const STARTED: SessionStarted = {
  type: 'session.started',
  session_id: 's1',
  persona: { id: 'ada', name: 'Ada' },
  speech: { sample_rate_hz: 22_050 },
  video: { codec: 'vp8', webcodecs: 'vp8', size_px: 512, fps: 25 },
  idle_loop: { frames: 100, fps: 25, sources: [], poster_url: '' },
  resumed: false,
};
