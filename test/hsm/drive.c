/*
 * What a token can do alone: so many threads, one session each, and the calls that a rewrap makes of one data key:
 * unwrap, wrap, unwrap. Prints calls a second, each C_EncryptInit, C_Encrypt, C_DecryptInit and C_Decrypt being one.
 *
 * drive MODULE TOKEN_LABEL KEY_LABEL THREADS SECONDS < PIN
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "pkcs11.h"

enum { DEK = 32, WRAP = 48, AAD = 120 };

static CK_FUNCTION_LIST_PTR p11;
static CK_SLOT_ID slot;
static const char *key_label;
static atomic_ulong calls;
static atomic_int stop, ready, go;

static void must(CK_RV rv, const char *what) {
  if (rv == CKR_OK) return;
  fprintf(stderr, "drive: %s: 0x%lx\n", what, rv);
  exit(1);
}

static void *work(void *unused) {
  (void)unused;
  CK_SESSION_HANDLE session;
  must(p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session), "C_OpenSession");
  CK_ATTRIBUTE by_label = {CKA_LABEL, (void *)key_label, strlen(key_label)};
  CK_OBJECT_HANDLE key;
  CK_ULONG found = 0;
  must(p11->C_FindObjectsInit(session, &by_label, 1), "C_FindObjectsInit");
  must(p11->C_FindObjects(session, &key, 1, &found), "C_FindObjects");
  must(p11->C_FindObjectsFinal(session), "C_FindObjectsFinal");
  if (found != 1) must(CKR_KEY_HANDLE_INVALID, "no such key");
  CK_BYTE iv[12] = {1}, aad[AAD] = {2}, dek[DEK] = {3}, wrap[WRAP], back[WRAP];
  CK_GCM_PARAMS gcm = {iv, sizeof iv, 96, aad, sizeof aad, 128};
  CK_MECHANISM how = {CKM_AES_GCM, &gcm, sizeof gcm};
  CK_ULONG length = WRAP;
  must(p11->C_EncryptInit(session, &how, key), "C_EncryptInit");
  must(p11->C_Encrypt(session, dek, DEK, wrap, &length), "C_Encrypt");
  atomic_fetch_add(&ready, 1);
  struct timespec moment = {0, 1000000};
  while (!atomic_load(&go)) nanosleep(&moment, NULL);
  while (!atomic_load(&stop)) {
    for (int twice = 0; twice < 2; twice++) {
      length = sizeof back;
      must(p11->C_DecryptInit(session, &how, key), "C_DecryptInit");
      must(p11->C_Decrypt(session, wrap, WRAP, back, &length), "C_Decrypt");
      if (length != DEK || memcmp(back, dek, DEK) != 0) must(CKR_DATA_INVALID, "other bytes");
      if (twice == 1) break;
      length = WRAP;
      must(p11->C_EncryptInit(session, &how, key), "C_EncryptInit");
      must(p11->C_Encrypt(session, dek, DEK, wrap, &length), "C_Encrypt");
    }
    atomic_fetch_add(&calls, 6);
  }
  return NULL;
}

int main(int argc, char **argv) {
  char pin[128] = "";
  if (argc != 6 || fgets(pin, sizeof pin, stdin) == NULL) return 2;
  pin[strcspn(pin, "\n")] = 0;
  key_label = argv[3];
  int threads = atoi(argv[4]);
  void *module = dlopen(argv[1], RTLD_NOW);
  if (module == NULL) must(CKR_GENERAL_ERROR, dlerror());
  CK_C_GetFunctionList list = (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList");
  must(list(&p11), "C_GetFunctionList");
  CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
  must(p11->C_Initialize(&args), "C_Initialize");
  CK_SLOT_ID slots[64];
  CK_ULONG count = 64, at;
  must(p11->C_GetSlotList(CK_TRUE, slots, &count), "C_GetSlotList");
  for (at = 0; at < count; at++) {
    CK_TOKEN_INFO info;
    must(p11->C_GetTokenInfo(slots[at], &info), "C_GetTokenInfo");
    size_t length = strlen(argv[2]);
    if (memcmp(info.label, argv[2], length) == 0 && (length == 32 || info.label[length] == ' ')) break;
  }
  if (at == count) must(CKR_TOKEN_NOT_PRESENT, argv[2]);
  slot = slots[at];
  CK_SESSION_HANDLE session;
  must(p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session), "C_OpenSession");
  must(p11->C_Login(session, CKU_USER, (CK_UTF8CHAR_PTR)pin, strlen(pin)), "C_Login");
  pthread_t *all = calloc(threads, sizeof *all);
  for (int i = 0; i < threads; i++) pthread_create(&all[i], NULL, work, NULL);
  struct timespec moment = {0, 1000000}, begun, ended;
  while (atomic_load(&ready) < threads) nanosleep(&moment, NULL);
  clock_gettime(CLOCK_MONOTONIC, &begun);
  atomic_store(&go, 1);
  struct timespec span = {(time_t)atof(argv[5]), (long)((atof(argv[5]) - (time_t)atof(argv[5])) * 1e9)};
  nanosleep(&span, NULL);
  unsigned long made = atomic_load(&calls);
  clock_gettime(CLOCK_MONOTONIC, &ended);
  atomic_store(&stop, 1);
  for (int i = 0; i < threads; i++) pthread_join(all[i], NULL);
  printf("%.0f\n", made / ((ended.tv_sec - begun.tv_sec) + (ended.tv_nsec - begun.tv_nsec) / 1e9));
  must(p11->C_Finalize(NULL), "C_Finalize");
  return 0;
}
