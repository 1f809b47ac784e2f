import { expect, test } from 'vitest';
import { ReplyCaptions } from '../src/captions';

function captions(): ReplyCaptions {
  const reply = new ReplyCaptions(1);
  const clause = (text: string, from: number) => {
    const words = text.split(' ').map((word, i) => ({ text: word, start_ms: from + i * 100, end_ms: from + i * 100 + 90 }));
    reply.add({ type: 'reply.clause', epoch: 1, text, start_ms: from, end_ms: words.at(-1)!.end_ms, words });
  };
  clause('Good morning.', 100);
  clause('How are you?', 400);
  clause('Fine?', 1000);
  return reply;
}

const shown = (reply: ReplyCaptions, at: number) => reply.at(at).map((word) => `${word.text}=${word.state}`);

test('words are revealed in time with the sound', () => {
  expect(shown(captions(), 0)).toEqual(['Good=coming', 'morning.=coming']);
  expect(shown(captions(), 150)).toEqual(['Good=saying', 'morning.=coming']);
  expect(shown(captions(), 195)).toEqual(['Good=said', 'morning.=coming']);
});

test('the clause before stays while one is spoken, older ones go', () => {
  expect(shown(captions(), 400)[0]).toBe('Good=said');
  expect(shown(captions(), 1000)).toEqual(['How=said', 'are=said', 'you?=said', 'Fine?=saying']);
});

test('what was heard ends with the word that had begun', () => {
  expect(captions().heard(510)).toBe('Good morning. How are');
  expect(captions().heard(0)).toBe('');
});
