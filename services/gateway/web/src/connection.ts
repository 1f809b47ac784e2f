/** One call's WebSocket: connects, connects again when it is lost, and hands on what comes. */

import {
  packMedia,
  parseServerEvent,
  unpackMedia,
  type ClientEvent,
  type MediaPacket,
  type ServerEvent,
} from './protocol';

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8_000;
const GIVE_UP_AFTER_MS = 120_000;
const OPEN_LIMIT_MS = 8_000;
const STUCK_BYTES = 256 * 1024; // 8 s of microphone that do not leave: the line is dead, though nobody said so

const SERVICE_RESTART = 1012;
const GOING_AWAY = 1001;

/** The part of a WebSocket that is needed here; tests have their own. */
export interface Socket {
  binaryType: BinaryType;
  readonly readyState: number;
  readonly bufferedAmount: number;
  onopen: ((event: Event) => void) | null;
  onmessage: ((event: MessageEvent) => void) | null;
  onclose: ((event: CloseEvent) => void) | null;
  send(data: string | ArrayBuffer): void;
  close(): void;
}

export interface ConnectionEvents {
  /** The socket is open: the first event must be sent now. */
  onopen(): void;
  onevent(event: ServerEvent): void;
  onmedia(packet: MediaPacket): void;
  /** It was lost, and is tried again after `wait_ms`. */
  onlost(restarting: boolean, wait_ms: number): void;
  /** It will not be tried again. */
  ongivenup(): void;
}

export class Connection {
  readonly #open: () => Socket;
  readonly #events: ConnectionEvents;
  readonly #now: () => number;
  #socket: Socket | null = null;
  #attempt = 0;
  #lostAt: number | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closed = false;

  constructor(open: () => Socket, events: ConnectionEvents, now: () => number = () => performance.now()) {
    this.#open = open;
    this.#events = events;
    this.#now = now;
  }

  connect(): void {
    this.#closed = false;
    clearTimeout(this.#timer);
    this.#drop();
    const socket = (this.#socket = this.#open());
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => {
      clearTimeout(this.#timer);
      this.#events.onopen();
    };
    socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => this.#onMessage(data);
    socket.onclose = ({ code }: CloseEvent) => this.#onLost(code === SERVICE_RESTART || code === GOING_AWAY);
    this.#timer = setTimeout(() => this.#onLost(false), OPEN_LIMIT_MS);
  }

  /** The session has started: the next loss begins with the shortest wait again. */
  settled(): void {
    this.#attempt = 0;
    this.#lostAt = null;
  }

  /** Waits no longer. */
  retryNow(): void {
    if (!this.#closed && this.#lostAt !== null) this.connect();
  }

  /** The browser says that the network is gone, or the server that it wants us later. */
  lose(wait_ms?: number): void {
    this.#onLost(false, wait_ms);
  }

  send(event: ClientEvent): void {
    if (this.#isOpen) this.#socket!.send(JSON.stringify(event));
  }

  sendMedia(packet: MediaPacket): void {
    if (!this.#isOpen) return;
    if (this.#socket!.bufferedAmount > STUCK_BYTES) return this.#onLost(false);
    this.#socket!.send(packMedia(packet));
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#drop();
  }

  get #isOpen(): boolean {
    return this.#socket?.readyState === 1;
  }

  #onMessage(data: string | ArrayBuffer): void {
    if (typeof data === 'string') {
      const event = parseServerEvent(data);
      if (event) this.#events.onevent(event);
    } else {
      const packet = unpackMedia(data);
      if (packet) this.#events.onmedia(packet);
    }
  }

  #onLost(restarting: boolean, wait_ms?: number): void {
    if (this.#closed) return;
    this.#drop();
    clearTimeout(this.#timer);
    this.#lostAt ??= this.#now();
    if (wait_ms === undefined && this.#now() - this.#lostAt > GIVE_UP_AFTER_MS) {
      this.#closed = true;
      return this.#events.ongivenup();
    }
    const wait = wait_ms ?? this.#nextWait();
    this.#timer = setTimeout(() => this.connect(), wait);
    this.#events.onlost(restarting, wait);
  }

  /** Doubles, with a spread, so that all clients of a restarted server do not come at once. */
  #nextWait(): number {
    const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#attempt++);
    return wait * (0.75 + Math.random() / 2);
  }

  #drop(): void {
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }
}
