/** The line at the bottom that asks for a text: what it asks for, and how keys edit the answer. */
import { CONDITION_HINT } from '../conditions.ts';
import type { Key } from './keys.ts';

export interface Prompt {
  kind: 'jump' | 'search' | 'breakpoint';
  text: string;
}

export const PROMPTS: Record<Prompt['kind'], { label: string; hint: string }> = {
  jump: { label: 'go to', hint: 'sequence, #position, time, 12:00:03, -10m, +3s, start, end' },
  search: { label: 'search', hint: 'any text of an event' },
  breakpoint: { label: 'break at', hint: CONDITION_HINT.replace('such as: ', '') },
};

/** Longest answer, characters. */
const MAX_TEXT = 300;

/** The prompt after a key that edits; undefined when the key closes it. Enter is for the session. */
export function editPrompt(prompt: Prompt, key: Key): Prompt | undefined {
  switch (key.name) {
    case 'escape':
      return undefined;
    case 'backspace':
      return prompt.text === '' ? undefined : { ...prompt, text: [...prompt.text].slice(0, -1).join('') };
    case 'clear-line':
      return { ...prompt, text: '' };
    case 'text':
      return prompt.text.length < MAX_TEXT ? { ...prompt, text: prompt.text + key.text } : prompt;
    default:
      return prompt;
  }
}
