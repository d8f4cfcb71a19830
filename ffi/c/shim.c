#include "shim.h"

#include <assert.h>

#define WIDTH(field, type) \
	static_assert(sizeof(((struct rte_mbuf *)0)->field) == sizeof(type), "the width of rte_mbuf." #field " has changed")

WIDTH(buf_addr, void *);
WIDTH(data_off, uint16_t);
WIDTH(refcnt, uint16_t);
WIDTH(nb_segs, uint16_t);
WIDTH(port, uint16_t);
WIDTH(pkt_len, uint32_t);
WIDTH(data_len, uint16_t);
WIDTH(buf_len, uint16_t);
WIDTH(next, struct rte_mbuf *);

int shim_errno(void)
{
	return rte_errno;
}

unsigned int shim_lcore_id(void)
{
	return rte_lcore_id();
}

uint64_t shim_tsc(void)
{
	return rte_rdtsc();
}

struct rte_mbuf *shim_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

struct rte_mbuf *shim_mbuf_sibling(const struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_alloc(mbuf->pool);
}

int shim_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void shim_mbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

int shim_mbuf_linearize(struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_linearize(mbuf);
}

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

uint16_t shim_next_port(uint16_t from)
{
	return (uint16_t)rte_eth_find_next_owned_by(from, RTE_ETH_DEV_NO_OWNER);
}

unsigned int shim_ports_of(const char *device, uint16_t *ports, unsigned int room)
{
	struct rte_dev_iterator iterator;
	unsigned int found = 0;
	uint16_t port;

	RTE_ETH_FOREACH_MATCHING_DEV(port, device, &iterator) {
		if (found == room) {
			rte_eth_iterator_cleanup(&iterator);
			break;
		}
		ports[found++] = port;
	}
	return found;
}

int shim_link(uint16_t port, bool *up, uint32_t *speed)
{
	struct rte_eth_link link;
	int result = rte_eth_link_get_nowait(port, &link);

	if (result == 0) {
		*up = link.link_status == RTE_ETH_LINK_UP;
		*speed = link.link_speed;
	}
	return result;
}
