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
