/**
 * Waits for work, for at most `limitMs` milliseconds. Work that takes longer goes on, and its result is dropped.
 * @param onTimeout gives the result instead, or throws.
 * @throws what `work` or `onTimeout` throws.
 */
export async function withTimeLimit<T, U>(limitMs: number, work: Promise<T>, onTimeout: () => U): Promise<T | U> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limitMs);
  });
  try {
    const first = await Promise.race([work.then((result) => ({ result })), late]);
    return first === undefined ? onTimeout() : first.result;
  } finally {
    clearTimeout(timer);
    // Nothing waits for it any more. A late failure must not end the process.
    work.catch(() => undefined);
  }
}
