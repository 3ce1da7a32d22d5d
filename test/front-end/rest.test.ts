/** When the rest of a starting image comes, and when all of it in one stream. Layers are stand-ins, time is the test's. */
import { beforeEach, describe, expect, test } from 'vitest';
import { LayerTable } from '../../src/front-end/layer-table.ts';
import { Rest } from '../../src/front-end/rest.ts';
import { HandClock } from '../support/hand-clock.ts';

const MB = 1 << 20;
/** 8 MB in 80 ms of the link and 160 of a processor: a price of 10 ms for each MB with two fetchers. */
const COST = { bytes: 8 * MB, isRest: false, firstByteUs: 5_000, fetchUs: 85_000, decodeUs: 160_000 };

let clock: HandClock;
let table: LayerTable;
let rest: Rest;
/** What layers were told. */
let told: string[];
let isWaitedFor: boolean;
beforeEach(() => {
  clock = new HandClock();
  table = new LayerTable();
  [told, isWaitedFor] = [[], false];
  const starts = { tick: () => {}, isBringing: false, lastFirstRead: Number.NEGATIVE_INFINITY };
  rest = new Rest({ clock, layers: table, starts, fetchers: () => 2 });
  rest.fetched(COST);
});

/** A layer of so many MB, none of which is here. */
function open(name: string, mb: number): void {
  const layer = {
    readahead: () => {},
    prefetch: (on: boolean) => void told.push(`${name} rest ${on ? 'on' : 'off'}`),
    aimAtAll: () => void told.push(`${name} in one stream`),
    get isWaitedFor() {
      return isWaitedFor;
    },
    absentBytes: mb * MB,
  };
  table.opened.set(name, layer as never);
  rest.want(name, layer as never, true);
}

/** Readers wait for so long, ms. */
function wait(ms: number): void {
  isWaitedFor = true;
  for (let passed = 0; passed < ms; passed += 50) {
    rest.coldRead();
    clock.turn(50);
  }
  isWaitedFor = false;
}

describe('a start that needs most of its image', () => {
  test('comes in one stream when its readers have waited for half of the price', () => {
    open('a', 300);
    wait(1_400);
    expect(told).toEqual([]);
    wait(400);
    expect(told).toEqual(['a in one stream']);
  });

  test('and computes in between: what was waited for before counts', () => {
    open('a', 300);
    wait(1_000);
    clock.turn(1_000);
    expect(told).toEqual(['a rest on']);
    wait(800);
    expect(told).toEqual(['a rest on', 'a in one stream']);
    // It comes once, over further pauses, too.
    clock.turn(1_000);
    wait(3_000);
    expect(told).toHaveLength(2);
  });

  test('that has ended adds nothing to the next one', () => {
    open('a', 300);
    wait(1_400);
    clock.turn(1_000);
    open('b', 300);
    wait(1_400);
    expect(told).toEqual(['a rest on']);
  });
});
