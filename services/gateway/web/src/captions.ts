/** The agent's words, revealed in time with its voice. */

import type { ReplyClause } from './protocol';

export type WordState = 'said' | 'saying' | 'coming';

export interface ShownWord {
  text: string;
  state: WordState;
}

export class ReplyCaptions {
  readonly epoch: number;
  #clauses: ReplyClause[] = [];

  constructor(epoch: number) {
    this.epoch = epoch;
  }

  add(clause: ReplyClause): void {
    this.#clauses.push(clause);
  }

  get text(): string {
    return this.#clauses.map((clause) => clause.text.trim()).join(' ');
  }

  /** The clause that is spoken now: the last that began, or the first while none has. */
  clauseAt(heard_ms: number): number {
    const index = this.#clauses.findLastIndex((clause) => clause.start_ms <= heard_ms);
    return Math.max(0, index);
  }

  textOf(index: number): string {
    return this.#clauses[index]?.text.trim() ?? '';
  }

  /** The spoken clause and the one before it, word by word. */
  at(heard_ms: number): ShownWord[] {
    const current = this.clauseAt(heard_ms);
    return this.#clauses.slice(Math.max(0, current - 1), current + 1).flatMap((clause) =>
      clause.words.map((word) => ({
        text: word.text,
        state: word.end_ms <= heard_ms ? 'said' : word.start_ms <= heard_ms ? 'saying' : 'coming',
      }) as const),
    );
  }

  /** The words that had begun by then. */
  heard(heard_ms: number): string {
    return this.#clauses
      .flatMap((clause) => clause.words)
      .filter((word) => word.start_ms <= heard_ms)
      .map((word) => word.text)
      .join(' ');
  }
}
