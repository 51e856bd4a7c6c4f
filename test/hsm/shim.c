/*
 * A PKCS#11 module that forwards to another one and misbehaves on demand: slow, failing, forgetful, pulled out, locked,
 * insisting on its own IVs, short of sessions, hanging, slow to initialise or to log in, with a slot that cannot be read. Built and steered by test/harness/token.ts.
 *
 * SHIM_MODULE   the module that does the work
 * SHIM_CONTROL  a file of SLOTS 64-bit words, mapped and shared: the test writes orders, the shim writes counts. The enum
 *               below is the map; test/harness/token.ts has the same one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include "pkcs11.h"

enum {
  /* orders */
  LATENCY_US,    /* added to each C_Encrypt and C_Decrypt */
  SLOW_INIT,     /* ... and to each C_EncryptInit and C_DecryptInit */
  FAIL_IN,       /* the n-th call from now on fails, once */
  FAIL_CODE,     /* with this code */
  FAIL_PPM,      /* so many of a million calls fail, with SESSION_HANDLE_INVALID, DEVICE_ERROR, TOKEN_NOT_PRESENT, GENERAL_ERROR */
  IV_MODE,       /* 1: the token makes its IVs at C_Encrypt, 2: at C_EncryptInit; it takes no others */
  SESSION_LIMIT, /* C_OpenSession beyond it fails */
  AWAY,          /* the token is pulled out: this code for every call that needs it */
  TOKEN_FLAGS,   /* flags of the token that are shown besides its own */
  LOGIN_CODE,    /* C_Login answers this */
  DROPS,         /* grows: every session is closed behind the caller's back */
  NO_GCM,        /* CKM_AES_GCM is not listed */
  CORRUPT_IN,    /* the n-th C_Encrypt from now on gives other bytes, once, and says CKR_OK */
  HANG,          /* C_Encrypt and C_Decrypt do not return while this is set */
  KILL_IN,       /* the process is killed before its n-th call from now on */
  KILL_AFTER_IN, /* ... or after it */
  IV_STRICT,     /* with IV_MODE: an IV that is not all zeros is refused */
  CAP,           /* C_OpenSession beyond so many sessions of a process answers CAP_CODE; C_GetTokenInfo does not mention it */
  CAP_CODE,
  FREE_SLOT,     /* C_GetTokenInfo of a slot whose token is not initialised answers this */
  INFO_CODE,     /* C_GetTokenInfo of every slot answers this */
  INIT_US,       /* C_Initialize takes this long */
  LOGIN_US,      /* C_Login takes this long */
  ATTRIBUTE_US,  /* C_GetAttributeValue takes this long */
  FAULT_PPM,     /* so many of a million calls of kind FAULT_CALL answer FAULT_CODE */
  FAULT_CODE,
  FAULT_CALL,    /* a value of enum call; 0 for all */
  PRINTS,        /* C_Initialize prints a line to stdout */
  CRASH,         /* C_Finalize kills the process */
  INIT_CODE,     /* C_Initialize answers this */
  LOGINS_MOST,   /* once LOGINS is beyond it C_Login answers DEVICE_ERROR */
  PIN_HASH,      /* FNV-1a of the user PIN, where that is another one than SoftHSM's: SoftHSM does not see a change by another process */
  /* counts */
  CALLS = 32,
  ENCRYPTS,
  DECRYPTS,
  LOGINS,
  INITIALIZED,
  FINALIZED,
  SESSIONS,
  SESSIONS_PEAK,
  FAILED,
  OVERLAPS, /* two calls at once on one session: never allowed */
  GENERATED,
  DESTROYED,
  WRONG_PINS, /* C_Login that the token answered with CKR_PIN_INCORRECT */
  LISTINGS,   /* C_FindObjectsInit without a CKA_LABEL */
  ATTRIBUTES, /* C_GetAttributeValue */
  /* more orders */
  EXTRACTABLE, /* each key is made extractable, whatever is asked for */
  LOGOUTS,     /* so many C_FindObjectsInit from now on find that the token has logged the application out */
  SLOTS = 64,
};

enum call { ANY, OPEN, LOGIN, INFO, GENERATE, DESTROY, ATTRIBUTE, FIND, ENCRYPT_INIT, ENCRYPT, DECRYPT_INIT, DECRYPT, SLOT_LIST, TOKEN_INFO };

enum { HANDLES = 4096 };

static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST table;
static _Atomic uint64_t *control;
static _Atomic uint64_t dropped;
static _Atomic uint64_t mine; /* sessions of this process */
/* SoftHSM frees the sessions that it closes while other threads are at work in them: no call is inside during a drop. */
static pthread_rwlock_t inside = PTHREAD_RWLOCK_INITIALIZER;
static atomic_int busy[HANDLES];
static struct {
  CK_BYTE_PTR iv;
  CK_BYTE made[12];
} own_iv[HANDLES];
static _Thread_local unsigned int seed;

#define READ(slot) atomic_load(&control[slot])
#define COUNT(slot) atomic_fetch_add(&control[slot], 1)

/* Counts an order down; true for the one call that it is meant for. */
static int due(int slot) {
  uint64_t left = atomic_load(&control[slot]);
  while (left > 0)
    if (atomic_compare_exchange_weak(&control[slot], &left, left - 1)) return left == 1;
  return 0;
}

static void nap(uint64_t us) {
  struct timespec time = {us / 1000000, (us % 1000000) * 1000};
  if (us > 0) nanosleep(&time, NULL);
}

static void drop_sessions(void) {
  if (READ(DROPS) == atomic_load(&dropped)) return;
  pthread_rwlock_wrlock(&inside);
  if (READ(DROPS) != atomic_load(&dropped)) {
    CK_SLOT_ID slots[64];
    CK_ULONG count = 64;
    if (real->C_GetSlotList(CK_TRUE, slots, &count) == CKR_OK)
      for (CK_ULONG at = 0; at < count; at++) real->C_CloseAllSessions(slots[at]);
    atomic_store(&dropped, READ(DROPS));
    atomic_fetch_sub(&control[SESSIONS], atomic_exchange(&mine, 0));
  }
  pthread_rwlock_unlock(&inside);
}

static int chance(uint64_t ppm) {
  if (ppm == 0) return 0;
  if (seed == 0) getrandom(&seed, sizeof seed, 0);
  return (uint64_t)(rand_r(&seed) % 1000000) < ppm;
}

/* Whether a call of this kind is to answer FAULT_CODE. */
static int faulty(enum call call) {
  if (READ(FAULT_CALL) != ANY && READ(FAULT_CALL) != call) return 0;
  if (!chance(READ(FAULT_PPM))) return 0;
  COUNT(FAILED);
  return 1;
}

/* What a call answers before the token sees it; CKR_OK lets it through. */
static CK_RV before(enum call call) {
  static const CK_RV codes[] = {CKR_SESSION_HANDLE_INVALID, CKR_DEVICE_ERROR, CKR_TOKEN_NOT_PRESENT, CKR_GENERAL_ERROR};
  COUNT(CALLS);
  if (due(KILL_IN)) raise(SIGKILL);
  drop_sessions();
  if (READ(AWAY)) return READ(AWAY);
  if (due(FAIL_IN)) {
    COUNT(FAILED);
    return READ(FAIL_CODE);
  }
  if (chance(READ(FAIL_PPM))) {
    COUNT(FAILED);
    return codes[rand_r(&seed) % 4];
  }
  if (faulty(call)) return READ(FAULT_CODE);
  return CKR_OK;
}

static CK_RV after(CK_RV rv) {
  if (due(KILL_AFTER_IN)) raise(SIGKILL);
  return rv;
}

#define INSIDE(rv, call)           \
  do {                             \
    pthread_rwlock_rdlock(&inside); \
    rv = (call);                   \
    pthread_rwlock_unlock(&inside); \
  } while (0)

#define ON_SESSION(kind, call)                                                \
  do {                                                                        \
    CK_RV rv = before(kind);                                                  \
    if (rv != CKR_OK) return rv;                                              \
    if (atomic_fetch_add(&busy[session % HANDLES], 1) > 0) COUNT(OVERLAPS);   \
    INSIDE(rv, call);                                                         \
    atomic_fetch_sub(&busy[session % HANDLES], 1);                            \
    return after(rv);                                                         \
  } while (0)

static CK_RV initialize(CK_VOID_PTR args) {
  COUNT(CALLS);
  COUNT(INITIALIZED);
  if (READ(PRINTS)) {
    printf("vendor library: connected\n");
    fflush(stdout);
  }
  nap(READ(INIT_US));
  if (READ(INIT_CODE)) return READ(INIT_CODE);
  return real->C_Initialize(args);
}

static CK_RV finalize(CK_VOID_PTR reserved) {
  COUNT(CALLS);
  COUNT(FINALIZED);
  if (READ(CRASH)) raise(SIGSEGV);
  atomic_fetch_sub(&control[SESSIONS], atomic_exchange(&mine, 0));
  return real->C_Finalize(reserved);
}

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID_PTR slots, CK_ULONG_PTR count) {
  COUNT(CALLS);
  if (READ(AWAY) && present) {
    *count = 0;
    return CKR_OK;
  }
  if (faulty(SLOT_LIST)) return READ(FAULT_CODE);
  return real->C_GetSlotList(present, slots, count);
}

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info) {
  COUNT(CALLS);
  if (READ(AWAY)) return READ(AWAY);
  if (READ(INFO_CODE)) return READ(INFO_CODE);
  if (faulty(TOKEN_INFO)) return READ(FAULT_CODE);
  CK_RV rv = real->C_GetTokenInfo(slot, info);
  if (rv != CKR_OK) return rv;
  if (READ(FREE_SLOT) && !(info->flags & CKF_TOKEN_INITIALIZED)) return READ(FREE_SLOT);
  info->flags |= READ(TOKEN_FLAGS);
  if (READ(SESSION_LIMIT)) info->ulMaxSessionCount = READ(SESSION_LIMIT);
  return rv;
}

static CK_RV get_mechanism_list(CK_SLOT_ID slot, CK_MECHANISM_TYPE_PTR list, CK_ULONG_PTR count) {
  COUNT(CALLS);
  if (READ(AWAY)) return READ(AWAY);
  CK_RV rv = real->C_GetMechanismList(slot, list, count);
  if (rv == CKR_OK && list != NULL && READ(NO_GCM))
    for (CK_ULONG at = 0; at < *count; at++)
      if (list[at] == CKM_AES_GCM) list[at] = CKM_AES_ECB;
  return rv;
}

static CK_RV get_mechanism_info(CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO_PTR info) {
  COUNT(CALLS);
  if (READ(AWAY)) return READ(AWAY);
  if (READ(NO_GCM) && type == CKM_AES_GCM) return CKR_MECHANISM_INVALID;
  return real->C_GetMechanismInfo(slot, type, info);
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR app, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR session) {
  CK_RV rv = before(OPEN);
  if (rv != CKR_OK) return rv;
  uint64_t open = atomic_fetch_add(&control[SESSIONS], 1) + 1;
  if (READ(CAP) && atomic_load(&mine) >= READ(CAP)) {
    atomic_fetch_sub(&control[SESSIONS], 1);
    return READ(CAP_CODE);
  }
  if (READ(SESSION_LIMIT) && open > READ(SESSION_LIMIT)) {
    atomic_fetch_sub(&control[SESSIONS], 1);
    return CKR_SESSION_COUNT;
  }
  INSIDE(rv, real->C_OpenSession(slot, flags, app, notify, session));
  if (rv != CKR_OK) atomic_fetch_sub(&control[SESSIONS], 1);
  else atomic_fetch_add(&mine, 1);
  uint64_t peak = READ(SESSIONS_PEAK);
  while (open > peak && !atomic_compare_exchange_weak(&control[SESSIONS_PEAK], &peak, open));
  return after(rv);
}

static CK_RV close_session(CK_SESSION_HANDLE session) {
  COUNT(CALLS);
  CK_RV rv;
  INSIDE(rv, real->C_CloseSession(session));
  if (rv == CKR_OK) {
    atomic_fetch_sub(&control[SESSIONS], 1);
    atomic_fetch_sub(&mine, 1);
  }
  return rv;
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE type, CK_UTF8CHAR_PTR pin, CK_ULONG length) {
  CK_RV rv = before(LOGIN);
  if (rv != CKR_OK) return rv;
  COUNT(LOGINS);
  nap(READ(LOGIN_US));
  if (READ(LOGIN_CODE)) return READ(LOGIN_CODE);
  if (READ(LOGINS_MOST) && READ(LOGINS) > READ(LOGINS_MOST)) return CKR_DEVICE_ERROR;
  if (READ(PIN_HASH)) {
    static CK_UTF8CHAR own[] = "hsm-pin-31415926";
    uint32_t hash = 2166136261u;
    for (CK_ULONG at = 0; at < length; at++) hash = (hash ^ pin[at]) * 16777619u;
    if (hash != READ(PIN_HASH)) {
      COUNT(WRONG_PINS);
      return CKR_PIN_INCORRECT;
    }
    pin = own;
    length = sizeof own - 1;
  }
  INSIDE(rv, real->C_Login(session, type, pin, length));
  if (rv == CKR_PIN_INCORRECT) COUNT(WRONG_PINS);
  return after(rv);
}

static CK_RV get_session_info(CK_SESSION_HANDLE session, CK_SESSION_INFO_PTR info) {
  ON_SESSION(INFO, real->C_GetSessionInfo(session, info));
}
static CK_RV generate_key(CK_SESSION_HANDLE session, CK_MECHANISM_PTR how, CK_ATTRIBUTE_PTR attributes, CK_ULONG count, CK_OBJECT_HANDLE_PTR key) {
  COUNT(GENERATED);
  for (CK_ULONG at = 0; READ(EXTRACTABLE) && at < count; at++)
    if (attributes[at].type == CKA_EXTRACTABLE) *(CK_BBOOL *)attributes[at].pValue = CK_TRUE;
  ON_SESSION(GENERATE, real->C_GenerateKey(session, how, attributes, count, key));
}
static CK_RV destroy_object(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object) {
  COUNT(DESTROYED);
  ON_SESSION(DESTROY, real->C_DestroyObject(session, object));
}
static CK_RV get_attribute_value(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_PTR attributes, CK_ULONG count) {
  COUNT(ATTRIBUTES);
  nap(READ(ATTRIBUTE_US));
  ON_SESSION(ATTRIBUTE, real->C_GetAttributeValue(session, object, attributes, count));
}
static CK_RV find_objects_init(CK_SESSION_HANDLE session, CK_ATTRIBUTE_PTR attributes, CK_ULONG count) {
  CK_ULONG at = 0;
  while (at < count && attributes[at].type != CKA_LABEL) at++;
  if (at == count) COUNT(LISTINGS);
  if (READ(LOGOUTS) > 0) {
    atomic_fetch_sub(&control[LOGOUTS], 1);
    real->C_Logout(session);
  }
  ON_SESSION(FIND, real->C_FindObjectsInit(session, attributes, count));
}
static CK_RV find_objects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE_PTR objects, CK_ULONG max, CK_ULONG_PTR count) {
  ON_SESSION(FIND, real->C_FindObjects(session, objects, max, count));
}
static CK_RV find_objects_final(CK_SESSION_HANDLE session) {
  ON_SESSION(FIND, real->C_FindObjectsFinal(session));
}

static CK_RV encrypt_init(CK_SESSION_HANDLE session, CK_MECHANISM_PTR how, CK_OBJECT_HANDLE key) {
  CK_GCM_PARAMS *gcm = how->pParameter;
  if (READ(SLOW_INIT)) nap(READ(LATENCY_US));
  own_iv[session % HANDLES].iv = NULL;
  if (READ(IV_MODE) && how->mechanism == CKM_AES_GCM) {
    static const CK_BYTE zeros[12];
    if (gcm->ulIvLen != 12 || (READ(IV_STRICT) && memcmp(gcm->pIv, zeros, 12) != 0)) return CKR_MECHANISM_PARAM_INVALID;
    CK_BYTE_PTR given = gcm->pIv;
    getrandom(own_iv[session % HANDLES].made, 12, 0);
    if (READ(IV_MODE) == 2) memcpy(given, own_iv[session % HANDLES].made, 12);
    else own_iv[session % HANDLES].iv = given;
    gcm->pIv = own_iv[session % HANDLES].made;
    CK_RV rv = before(ENCRYPT_INIT);
    if (rv == CKR_OK) INSIDE(rv, real->C_EncryptInit(session, how, key));
    gcm->pIv = given;
    return after(rv);
  }
  ON_SESSION(ENCRYPT_INIT, real->C_EncryptInit(session, how, key));
}

static CK_RV slow(enum call kind, CK_RV (*call)(CK_SESSION_HANDLE, CK_BYTE_PTR, CK_ULONG, CK_BYTE_PTR, CK_ULONG_PTR), CK_SESSION_HANDLE session,
                  CK_BYTE_PTR in, CK_ULONG length, CK_BYTE_PTR out, CK_ULONG_PTR written) {
  while (READ(HANG)) nap(5000);
  nap(READ(LATENCY_US));
  ON_SESSION(kind, call(session, in, length, out, written));
}

static CK_RV encrypt(CK_SESSION_HANDLE session, CK_BYTE_PTR in, CK_ULONG length, CK_BYTE_PTR out, CK_ULONG_PTR written) {
  COUNT(ENCRYPTS);
  CK_RV rv = slow(ENCRYPT, real->C_Encrypt, session, in, length, out, written);
  if (rv == CKR_OK && own_iv[session % HANDLES].iv != NULL)
    memcpy(own_iv[session % HANDLES].iv, own_iv[session % HANDLES].made, 12);
  if (rv == CKR_OK && due(CORRUPT_IN)) out[0] ^= 1;
  return rv;
}

static CK_RV decrypt_init(CK_SESSION_HANDLE session, CK_MECHANISM_PTR how, CK_OBJECT_HANDLE key) {
  if (READ(SLOW_INIT)) nap(READ(LATENCY_US));
  ON_SESSION(DECRYPT_INIT, real->C_DecryptInit(session, how, key));
}

static CK_RV decrypt(CK_SESSION_HANDLE session, CK_BYTE_PTR in, CK_ULONG length, CK_BYTE_PTR out, CK_ULONG_PTR written) {
  COUNT(DECRYPTS);
  return slow(DECRYPT, real->C_Decrypt, session, in, length, out, written);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&lock);
  if (real == NULL) {
    const char *path = getenv("SHIM_MODULE"), *file = getenv("SHIM_CONTROL");
    int descriptor = file == NULL ? -1 : open(file, O_RDWR);
    void *memory = descriptor < 0 ? MAP_FAILED : mmap(NULL, SLOTS * 8, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    void *module = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CK_C_GetFunctionList get = module == NULL ? NULL : (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList");
    if (memory == MAP_FAILED || get == NULL || get(&real) != CKR_OK) {
      fprintf(stderr, "shim: SHIM_MODULE or SHIM_CONTROL is not usable\n");
      pthread_mutex_unlock(&lock);
      return CKR_GENERAL_ERROR;
    }
    control = memory;
    atomic_store(&dropped, READ(DROPS));
    table = *real;
    table.C_GetFunctionList = C_GetFunctionList;
    table.C_Initialize = initialize;
    table.C_Finalize = finalize;
    table.C_GetSlotList = get_slot_list;
    table.C_GetTokenInfo = get_token_info;
    table.C_GetMechanismList = get_mechanism_list;
    table.C_GetMechanismInfo = get_mechanism_info;
    table.C_OpenSession = open_session;
    table.C_CloseSession = close_session;
    table.C_Login = login;
    table.C_GetSessionInfo = get_session_info;
    table.C_GenerateKey = generate_key;
    table.C_DestroyObject = destroy_object;
    table.C_GetAttributeValue = get_attribute_value;
    table.C_FindObjectsInit = find_objects_init;
    table.C_FindObjects = find_objects;
    table.C_FindObjectsFinal = find_objects_final;
    table.C_EncryptInit = encrypt_init;
    table.C_Encrypt = encrypt;
    table.C_DecryptInit = decrypt_init;
    table.C_Decrypt = decrypt;
  }
  pthread_mutex_unlock(&lock);
  *list = &table;
  return CKR_OK;
}
