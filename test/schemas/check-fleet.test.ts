/** What a member of the fleet may send, and what is refused before it is looked at. */
import { describe, expect, test } from 'vitest';
import { isFleetAnswer, isFleetAsk, isFleetHold, isFleetWrong, isMember } from '../../schemas/check-fleet.ts';
import {
  bytesOfPiece,
  fleetSubjects,
  MAX_ASKED,
  PIECE_BYTES,
  piecesIn,
  piecesOfBytes,
  senderOf,
} from '../../schemas/fleet.ts';

const MEMBER = {
  v: 2,
  fleet: 'prod',
  id: 'node-1',
  zone: 'a',
  address: '10.0.0.1:7443',
  fingerprint: Array.from({ length: 32 }, () => 'AB').join(':'),
  role: 'node',
  weight: 1,
  version: '0.0.0',
  life: 'abcdefgh12',
  since: 1,
  everyMs: 2_000,
};
const SOURCE = {
  registry: 'r:5000',
  repository: 'app',
  digest: `sha256:${'a'.repeat(64)}`,
  size: 3 * PIECE_BYTES + 1,
};
const ASK = {
  v: 1,
  class: 'demand',
  token: false,
  source: SOURCE,
  pieces: [0, 3],
};

describe('what members say', () => {
  test.each([
    ['a member', isMember, MEMBER, true],
    ['a member at an IPv6 address', isMember, { ...MEMBER, address: '[fd00::1]:7443' }, true],
    ['a member of a later version', isMember, { ...MEMBER, later: 1 }, true],
    ['an address without a port', isMember, { ...MEMBER, address: '10.0.0.1' }, false],
    ['an address that is a URL with a path', isMember, { ...MEMBER, address: 'evil/x:80' }, false],
    ['a port that is none', isMember, { ...MEMBER, address: 'a:70000' }, false],
    ['a zone of two tokens', isMember, { ...MEMBER, zone: 'a.b' }, false],
    ['a fingerprint in another form', isMember, { ...MEMBER, fingerprint: 'ab'.repeat(32) }, false],
    ['a weight beyond all', isMember, { ...MEMBER, weight: 1e9 }, false],
    ['a member that never speaks again', isMember, { ...MEMBER, everyMs: 1e9 }, false],
    ['a start that is no date', isMember, { ...MEMBER, since: 8.64e15 + 1 }, false],
    ['an ask', isFleetAsk, ASK, true],
    [
      'an ask for a blob of a registry that is a path',
      isFleetAsk,
      { ...ASK, source: { ...SOURCE, registry: 'user@host/path' } },
      false,
    ],
    ['an ask for a piece behind the end of the blob', isFleetAsk, { ...ASK, pieces: [4] }, false],
    ['an ask of a cell', isFleetAsk, { ...ASK, cell: 1_023 }, true],
    ['an ask of a cell that no zone has', isFleetAsk, { ...ASK, cell: 1_024 }, false],
    ['an ask with what a later version says', isFleetAsk, { ...ASK, later: 1 }, true],
    ['an ask for nothing', isFleetAsk, { ...ASK, pieces: [] }, false],
    ['an ask for one piece twice', isFleetAsk, { ...ASK, pieces: [1, 1] }, false],
    [
      'an ask for too many',
      isFleetAsk,
      {
        ...ASK,
        source: { ...SOURCE, size: 2 ** 35 },
        pieces: Array.from({ length: MAX_ASKED + 1 }, (_, at) => at),
      },
      false,
    ],
    ['a hold', isFleetHold, { v: 1, source: SOURCE, pieces: [3] }, true],
    ['a hold in a cell', isFleetHold, { v: 1, source: SOURCE, pieces: [3], cell: 0 }, true],
    ['a hold in half a cell', isFleetHold, { v: 1, source: SOURCE, pieces: [3], cell: 0.5 }, false],
    ['a hold behind the end', isFleetHold, { v: 1, source: SOURCE, pieces: [9] }, false],
    [
      'a word about a piece behind the end',
      isFleetWrong,
      { v: 1, source: SOURCE, index: 4, member: 'm' },
      false,
    ],
    [
      'an answer that would have the asker wait for an hour',
      isFleetAnswer,
      {
        v: 1,
        registry: 'r:5000',
        digest: SOURCE.digest,
        pieces: [{ index: 0, state: 'busy', ms: 3_600_000 }],
      },
      false,
    ],
  ] as const)('%s', (_, check, value, isOne) => {
    expect(check(value)).toBe(isOne);
  });

  test('pieces cover a blob without a gap, the last one shorter', () => {
    const size = SOURCE.size;
    expect(piecesIn(size)).toBe(4);
    expect(bytesOfPiece(3, size)).toEqual([3 * PIECE_BYTES, size]);
    expect(piecesOfBytes(PIECE_BYTES - 1, PIECE_BYTES + 1)).toEqual([0, 2]);
    expect(piecesOfBytes(PIECE_BYTES, 2 * PIECE_BYTES)).toEqual([1, 1]);
    expect(piecesOfBytes(5, 5)).toEqual([0, 0]);
  });

  test('a subject names the sender, and a name of two tokens makes none', () => {
    const names = fleetSubjects('prod', 'node-1');
    expect(senderOf(names.to('ask', 'node-2'))).toBe('node-1');
    expect(() => fleetSubjects('prod', 'node.1')).toThrow(RangeError);
    expect(() => fleetSubjects('*', 'node-1')).toThrow('one word');
  });
});
