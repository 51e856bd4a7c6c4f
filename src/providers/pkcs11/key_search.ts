import type { Handle } from "./cryptoki.ts";
import { keyLabel, searchTemplate } from "./key_object.ts";
import { RETURN_CODES } from "./return_codes.ts";
import type { OpenSession } from "./session.ts";
import { TokenFault } from "./token_fault.ts";

/**
 * The token's keys with the label of a version. A token that has logged the application out shows no private object (PKCS#11 v2.40,
 * 2.4), so that none is found says nothing until the login is seen to stand.
 * @param most how many are wanted.
 * @throws TokenFault as the module answers, or because the login is lost.
 */
export function findKeys({ module, handle }: OpenSession, version: number, most?: number): Handle[] {
  const found = module.find(handle, searchTemplate(keyLabel(version)), most);
  if (found.length === 0 && !module.isLoggedIn(handle))
    throw new TokenFault(RETURN_CODES.lost.CKR_USER_NOT_LOGGED_IN, "C_FindObjects");
  return found;
}
