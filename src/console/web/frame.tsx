/** What surrounds every view: where one is, whether it lives, light or dark, help. */
import { effect, signal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { away, incident } from './api.ts';
import { areKeysOn, isTyping } from './keys.ts';
import { log, node, silent } from './live.ts';
import { addressOf, place } from './place.ts';
import { nextTheme, theme } from './theme.ts';
import { VIEWS } from './views.ts';

const isHelpOpen = signal(false);

export function Frame() {
  const { view: id, words } = place.value;
  const view = VIEWS.find((one) => one.id === id) ?? VIEWS[0];
  const trouble = away.value ?? silent.value;
  useEffect(() => {
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
  useEffect(() => {
    document.title = `${view?.title ?? ''} · ${node.value?.node ?? ''} · cofa`;
  }, [view?.title, node.value?.node]);
  if (view === undefined) return null;
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>
        To the content
      </a>
      <header class="top">
        <p class="brand">
          <b>cofa</b> <span class="muted ellipsis">{node.value?.node ?? ''}</span>
        </p>
        <nav aria-label="Views">
          {VIEWS.map((one) => (
            <a href={addressOf(one.id)} aria-current={one === view ? 'page' : undefined}>
              {one.title}
            </a>
          ))}
        </nav>
        <div class="tools">
          <Liveness />
          <button type="button" class="quiet" onClick={nextTheme} aria-label={`Colours: ${theme.value}`}>
            {SIGNS[theme.value]}
          </button>
          <button type="button" class="quiet" onClick={() => (isHelpOpen.value = true)} aria-label="Keys">
            ?
          </button>
        </div>
      </header>
      {trouble !== undefined && (
        <p class="banner bad" role="alert">
          {trouble}
        </p>
      )}
      {incident !== undefined && (
        <aside class="banner about" aria-label="Which log this is">
          This is the log around incident {incident}, and nothing else.{' '}
          <a href={`./${addressOf('incidents', { name: incident })}`}>Back to the node</a>
        </aside>
      )}
      <main id="main" tabIndex={-1} class={`view-${view.id}`}>
        <view.Body words={words} />
      </main>
      <Help />
    </>
  );
}

const SIGNS = { 'as the system': '◐', light: '☀', dark: '☾' } as const;

/** The address names views, so the link moves by itself. */
function skip(event: Event): void {
  event.preventDefault();
  document.getElementById('main')?.focus();
}

function Liveness() {
  const { isLive } = log.value ?? {};
  const text = (away.value ?? silent.value) !== undefined ? 'away' : isLive === true ? 'live' : 'still';
  return (
    <span class={`pill ${text}`} role="status">
      {text}
    </span>
  );
}

function onKey(event: KeyboardEvent): void {
  if (!areKeysOn.value || isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  const number = Number(event.key);
  const view = Number.isInteger(number) && number > 0 ? VIEWS[number - 1] : undefined;
  if (view !== undefined) location.hash = addressOf(view.id);
  else if (event.key === '?') isHelpOpen.value = true;
}

function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(
    () =>
      effect(() => {
        if (isHelpOpen.value && dialog.current?.open === false) dialog.current.showModal();
      }),
    [],
  );
  return (
    <dialog ref={dialog} aria-labelledby="help-title" onClose={() => (isHelpOpen.value = false)}>
      <h2 id="help-title">Keys</h2>
      <dl class="keys">
        <dt>{VIEWS.map((_, index) => index + 1).join(' ')}</dt>
        <dd>{VIEWS.map(({ title }) => title).join(', ')}</dd>
        <dt>?</dt>
        <dd>this help</dd>
      </dl>
      {VIEWS.filter(({ keys }) => keys !== undefined).map(({ title, keys = [] }) => (
        <>
          <h3>{title}</h3>
          <dl class="keys">
            {keys.map(([key, does]) => (
              <>
                <dt>{key}</dt>
                <dd>{does}</dd>
              </>
            ))}
          </dl>
        </>
      ))}
      <label class="check">
        <input
          type="checkbox"
          checked={areKeysOn.value}
          onChange={(event) => (areKeysOn.value = event.currentTarget.checked)}
        />
        Single letters are keys
      </label>
      <form method="dialog">
        <button type="submit">Close</button>
      </form>
    </dialog>
  );
}
