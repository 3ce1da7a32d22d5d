/** What a caller is told when the kernel refuses a mount. */
export const mountErrors = (type: string) =>
  ({
    ENODEV: { code: 'environment', hint: `this kernel lacks the file system: modprobe ${type}` },
    EINVAL: {
      code: 'unsupported',
      // EROFS has blocks of 512 bytes since Linux 6.4; Debian 12 comes with 6.1.
      hint: `${type === 'erofs' ? 'flat images take Linux 6.4 or newer: cofa doctor tries it; ' : ''}the kernel log (dmesg) says what it refused`,
    },
    EBUSY: { code: 'busy', hint: 'something else is mounted there, or holds the device' },
  }) as const;
