/** Whether single letters act. Some voice input types letters where none was meant (WCAG 2.1.4): it can be turned off. */
import { effect, signal } from '@preact/signals';
import { kept, keep } from './kept.ts';

export const areKeysOn = signal(kept('keys') !== 'off');
effect(() => keep('keys', areKeysOn.value ? 'on' : 'off'));

/** Whether the event belongs to a field, a menu or an open dialog. */
export function isTyping({ target }: Event): boolean {
  if (document.querySelector('dialog[open]') !== null) return true;
  return (
    target instanceof HTMLElement && target.closest('input, select, textarea, [contenteditable]') !== null
  );
}

/** Does what a key means here: the page and the browser then do nothing of their own. Keys with a modifier are theirs. */
export function actOnKey(event: KeyboardEvent, acts: Readonly<Record<string, () => void>>): void {
  const act = acts[event.key];
  if (act === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();
  act();
}
