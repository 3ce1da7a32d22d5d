/** What the browser keeps for the next visit; where it may not, nothing. */
export function kept(name: string): string | undefined {
  try {
    return localStorage.getItem(`cofa-${name}`) ?? undefined;
  } catch {
    return undefined;
  }
}

export function keep(name: string, value: string): void {
  try {
    localStorage.setItem(`cofa-${name}`, value);
  } catch {
    // Then it is asked again next time.
  }
}
