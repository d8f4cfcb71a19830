/* What Rust cannot call or read itself: DPDK's static inline functions and macros, and where the fields of an mbuf are.
 * Nothing here decides anything; a shim is one call of DPDK. */

#ifndef DPDK_SYS_SHIM_H
#define DPDK_SYS_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

int shim_errno(void);
unsigned int shim_lcore_id(void);
uint64_t shim_tsc(void);

struct rte_mbuf *shim_mbuf_alloc(struct rte_mempool *pool);
struct rte_mbuf *shim_mbuf_sibling(const struct rte_mbuf *mbuf);
int shim_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);
void shim_mbuf_free(struct rte_mbuf *mbuf);
int shim_mbuf_linearize(struct rte_mbuf *mbuf);

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* The first port at or after `from`, or SHIM_MAX_PORTS. */
uint16_t shim_next_port(uint16_t from);
/* Writes the ports that belong to `device` and returns how many there are, at most `room`. */
unsigned int shim_ports_of(const char *device, uint16_t *ports, unsigned int room);
int shim_link(uint16_t port, bool *up, uint32_t *speed);

/* Offsets rather than the structure: several of these fields sit in unnamed unions whose shape changes between releases
 * of DPDK, while C finds them by name in all of them. shim.c asserts their widths. */
static const size_t SHIM_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr);
static const size_t SHIM_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off);
static const size_t SHIM_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt);
static const size_t SHIM_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs);
static const size_t SHIM_MBUF_PORT = offsetof(struct rte_mbuf, port);
static const size_t SHIM_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len);
static const size_t SHIM_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len);
static const size_t SHIM_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len);
static const size_t SHIM_MBUF_NEXT = offsetof(struct rte_mbuf, next);

/* Macros whose values bindgen cannot compute. */
static const uint16_t SHIM_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint16_t SHIM_MAX_PORTS = RTE_MAX_ETHPORTS;
static const size_t SHIM_PORT_NAME_LEN = RTE_ETH_NAME_MAX_LEN;
static const unsigned int SHIM_LCORE_ANY = LCORE_ID_ANY;
static const int SHIM_SOCKET_ANY = SOCKET_ID_ANY;
static const uint32_t SHIM_SPEED_UNKNOWN = RTE_ETH_SPEED_NUM_UNKNOWN;
static const uint32_t SHIM_FRAME_OVERHEAD = RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN;

static const uint32_t SHIM_MQ_RSS = RTE_ETH_MQ_RX_RSS;
static const uint64_t SHIM_RSS_FLOWS = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_SCTP;

static const uint64_t SHIM_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t SHIM_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

#endif
