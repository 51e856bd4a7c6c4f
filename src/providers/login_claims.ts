/** How the processes of an install agree on who sends a PIN to a token. Each provider whose keys need a login asks before it. */

export interface LoginClaims {
  /**
   * Waits until this process alone may log in.
   * @throws KekError `hsm_pin` when the PIN may be one that was refused, `hsm_unavailable` when nobody can say so in time.
   */
  take(tokenLabel: string, source: LoginSource): Promise<LoginClaim>;
}

/** Where this process has its PIN from, and when that changed. Says nothing of the PIN. */
export interface LoginSource {
  /** In words. */
  from: string;
  /** A person typed it for this one command. */
  typed: boolean;
  /** When the PIN file last changed, in milliseconds since 1970 by this host's clock; undefined where there is no file. */
  changedAt: number | undefined;
  /** How long the login may take. */
  limitMs: number;
}

export interface LoginClaim {
  /** Lets the next process try. @param refusedWith the token's return code; 0 for accepted; undefined for neither. */
  give(refusedWith: number | undefined): Promise<void>;
}
