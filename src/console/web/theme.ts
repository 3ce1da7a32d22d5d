/** Light, dark, or what the system says. */
import { effect, signal } from '@preact/signals';
import { keep, kept } from './kept.ts';

const THEMES = ['as the system', 'light', 'dark'] as const;
export type Theme = (typeof THEMES)[number];

export const theme = signal<Theme>(THEMES.find((one) => one === kept('theme')) ?? 'as the system');
/** Rises when colours have changed: canvases draw anew. */
export const colours = signal(0);

effect(() => {
  keep('theme', theme.value);
  if (theme.value === 'as the system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
  colours.value = colours.peek() + 1;
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => (colours.value += 1));

export function nextTheme(): void {
  theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length] ?? 'as the system';
}

const known = new Map<string, string>();
effect(() => {
  void colours.value;
  known.clear();
});

/** A colour of the style sheet, such as `--good`, as a canvas takes it. */
export function colourOf(name: string): string {
  let colour = known.get(name);
  if (colour === undefined) {
    const probe = document.createElement('span');
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    colour = getComputedStyle(probe).color;
    probe.remove();
    known.set(name, colour);
  }
  return colour;
}
